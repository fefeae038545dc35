//! How cases are listed: each topic's file names its cases once, in `topic!`, and the suite names its topics once, in
//! `topics!`. Everything else (the table of cases, the tests that `conformance!` makes) comes from these lists.

/// Lists a topic's cases. Besides the table it makes the macro that [`conformance!`](crate::conformance!) calls, which is
/// why it is handed a dollar sign to write one with.
macro_rules! topic {
    (($d:tt) $topic:ident, $emit:ident: $($case:ident,)*) => {
        pub(super) fn cases() -> Vec<$crate::conformance::Case> {
            vec![$($crate::conformance::Case {
                topic: stringify!($topic),
                name: stringify!($case),
                run: |scene| Box::pin($case(scene)),
            },)*]
        }

        #[doc(hidden)]
        #[macro_export]
        macro_rules! $emit {
            ($d builder:expr) => {
                mod $topic {
                    #[allow(unused_imports)]
                    use super::*;
                    $(
                        #[test]
                        fn $case() {
                            $crate::conformance::test_case($d builder, stringify!($topic), stringify!($case));
                        }
                    )*
                }
            };
        }
    };
}

/// Lists the topics: declares their modules, the table of them, and [`conformance!`](crate::conformance!).
macro_rules! topics {
    (($d:tt) $($topic:ident, $emit:ident;)*) => {
        $(mod $topic;)*

        const TOPICS: &[fn() -> Vec<Case>] = &[$($topic::cases),*];

        /// Makes a test of each conformance case, in a module per topic. The argument is an expression that gives a
        /// [`StorageBuilder`](crate::harness::StorageBuilder); it is evaluated anew for each test, in a module inside the
        /// one that this is called in.
        #[macro_export]
        macro_rules! conformance {
            ($d builder:expr $d(,)?) => {
                $($crate::$emit! { $d builder })*
            };
        }
    };
}
