//! Writes the `impl Job`. It is written even where settings were wrong, with those left out, so that the compiler shows
//! the mistakes themselves and not a trail of "is not a job" behind them.

use std::time::Duration;

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, GenericParam, parse_quote};

use crate::attributes::Mistakes;
use crate::backoff::Backoff;
use crate::settings::{Codec, Jitter, KeepFor, Settings};

/// The derive as a whole: the impl, and the mistakes.
pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let settings = Settings::read(input, &mut mistakes);
    let possible = check_shape(input, &mut mistakes);
    let implementation = if possible { implementation(input, &settings) } else { TokenStream::new() };
    let mistakes = mistakes.into_tokens();
    quote!(#implementation #mistakes)
}

/// Whether an impl makes sense for a type of this shape.
fn check_shape(input: &DeriveInput, mistakes: &mut Mistakes) -> bool {
    let generic = input.generics.params.first().map(|first| (first.span(), generic_mistake(first)));
    let union = matches!(input.data, Data::Union(_))
        .then(|| (input.ident.span(), "a union can't be a job, because serde can't write it; use a struct or an enum"));
    let possible = generic.is_none() && union.is_none();
    for (place, what) in generic.into_iter().chain(union) {
        mistakes.at(place, what);
    }
    possible
}

fn generic_mistake(parameter: &GenericParam) -> &'static str {
    match parameter {
        GenericParam::Lifetime(_) => {
            "a job owns what it carries, because it outlives the process that enqueued it; use `String` or `Vec` instead \
             of a borrow"
        }
        GenericParam::Type(_) | GenericParam::Const(_) => {
            "a job can't be generic, because its name is stored and must say which type to read; write one type per kind \
             of job, or implement `Job` by hand for each instance"
        }
    }
}

fn implementation(input: &DeriveInput, settings: &Settings) -> TokenStream {
    let ident = &input.ident;
    let ferroq = settings.krate.clone().unwrap_or_else(|| parse_quote!(::ferroq));
    let from = quote!(#ferroq::__derive);
    let name = settings.name.as_deref().unwrap_or("unnamed");
    let queue = settings.queue.as_ref().map(|queue| quote!(const QUEUE: &'static str = #queue;));
    let priority =
        settings.priority.map(|priority| quote!(const PRIORITY: #from::Priority = #from::Priority(#priority);));
    let version = settings.version.map(|version| quote!(const VERSION: u16 = #version;));
    let codec = settings.codec.map(|codec| {
        let codec = match codec {
            Codec::Json => quote!(Json),
            Codec::Bincode => quote!(Bincode),
        };
        quote!(const CODEC: #from::CodecTag = #from::CodecTag::#codec;)
    });
    let output = settings.output.as_ref().map_or_else(|| quote!(()), |output| quote!(#output));
    let options = options(settings, &from);
    let upcast = settings.upcast.as_ref().map(|path| {
        // A variable of the type wanted, at the path's own place: a function of another type is pointed at there, and
        // its type is shown beside the one wanted.
        let read = quote_spanned! {path.span()=>
            let read: fn(u16, #from::Value) -> ::core::result::Result<Self, #from::UpcastError> = #path;
        };
        quote! {
            fn upcast(
                from: u16,
                payload: #from::Value,
            ) -> ::core::result::Result<Self, #from::UpcastError> {
                #read
                read(from, payload)
            }
        }
    });
    quote! {
        #[automatically_derived]
        impl #from::Job for #ident {
            const NAME: &'static str = #name;
            #queue
            #priority
            #version
            #codec
            type Output = #output;
            #options
            #upcast
        }
    }
}

/// The `options` method, where something in it differs from the default.
fn options(settings: &Settings, from: &TokenStream) -> Option<TokenStream> {
    let mut set = Vec::new();
    if let Some(attempts) = settings.max_attempts {
        set.push(quote!(options.max_attempts = #attempts;));
    }
    if let Some(crashes) = settings.max_crashes {
        set.push(quote!(options.max_crashes = #crashes;));
    }
    if let Some(span) = settings.timeout.map(duration) {
        set.push(quote!(options.timeout = ::core::option::Option::Some(#span);));
    }
    if let Some(span) = settings.expires_in.map(duration) {
        set.push(quote!(options.expires_in = ::core::option::Option::Some(#span);));
    }
    if let Some(backoff) = &settings.backoff {
        let backoff = backoff_tokens(backoff);
        set.push(quote!(options.backoff = #from::Backoff::#backoff;));
    }
    if let Some(jitter) = settings.jitter {
        let jitter = match jitter {
            Jitter::None => quote!(None),
            Jitter::Equal => quote!(Equal),
            Jitter::Full => quote!(Full),
        };
        set.push(quote!(options.backoff.jitter = #from::Jitter::#jitter;));
    }
    let kept = [
        (quote!(completed), settings.keep_completed),
        (quote!(failed), settings.keep_failed),
        (quote!(cancelled), settings.keep_cancelled),
    ];
    for (how, keep) in kept {
        let keep = match keep {
            None => continue,
            Some(KeepFor::Remove) => quote!(Remove),
            Some(KeepFor::Age(age)) => {
                let age = duration(age);
                quote!(Age(#age))
            }
        };
        set.push(quote!(options.keep.#how = #from::KeepFor::#keep;));
    }
    (!set.is_empty()).then(|| {
        quote! {
            fn options() -> #from::JobOptions {
                let mut options = <#from::JobOptions as ::core::default::Default>::default();
                #(#set)*
                options
            }
        }
    })
}

fn backoff_tokens(backoff: &Backoff) -> TokenStream {
    match backoff {
        Backoff::Fixed(delay) => {
            let delay = duration(*delay);
            quote!(fixed(#delay))
        }
        Backoff::Linear(base, max) => {
            let (base, max) = (duration(*base), duration(*max));
            quote!(linear(#base, #max))
        }
        Backoff::Exponential(base, factor, max) => {
            let (base, max) = (duration(*base), duration(*max));
            quote!(exponential(#base, #factor, #max))
        }
        Backoff::List(delays) => {
            let delays = delays.iter().map(|delay| duration(*delay));
            quote!(list([#(#delays),*]))
        }
    }
}

fn duration(span: Duration) -> TokenStream {
    let (seconds, nanoseconds) = (span.as_secs(), span.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(input: TokenStream) -> String {
        derive(&syn::parse2(input).expect("it is a type")).to_string().replace(' ', "")
    }

    #[test]
    fn defaults_are_left_to_the_trait() {
        let code = expand(quote!(
            #[job(name = "a")]
            struct A;
        ));
        assert!(code.contains("implferroq::__derive::JobforA") || code.contains("impl::ferroq::__derive::JobforA"));
        assert!(!code.contains("QUEUE") && !code.contains("fnoptions") && !code.contains("fnupcast"), "{code}");
        assert!(code.contains("typeOutput=();"));
    }

    #[test]
    fn another_name_for_the_crate_is_used_throughout() {
        let code = expand(quote!(
            #[job(name = "a", crate = "crate::queue", codec = "bincode", timeout = "1s")]
            enum A {
                B,
            }
        ));
        assert!(code.contains("implcrate::queue::__derive::JobforA") && !code.contains("::ferroq"), "{code}");
    }

    #[test]
    fn generics_and_unions_get_an_error_and_no_impl() {
        for (input, why) in [
            (
                quote!(
                    #[job(name = "a")]
                    struct A<T> {
                        a: T,
                    }
                ),
                "can'tbegeneric",
            ),
            (
                quote!(
                    #[job(name = "a")]
                    struct A<'a> {
                        a: &'a str,
                    }
                ),
                "ownswhatitcarries",
            ),
            (quote!(#[job(name = "a")] union A { a: u8 }), "unioncan'tbeajob"),
        ] {
            let code = expand(input);
            assert!(code.contains("compile_error") && code.contains(why) && !code.contains("JobforA"), "{code}");
        }
    }

    #[test]
    fn a_wrong_setting_is_reported_beside_an_impl_without_it() {
        let code = expand(quote!(
            #[job(name = "a", timeout = "30")]
            struct A;
        ));
        assert!(code.contains("compile_error") && code.contains("JobforA") && !code.contains("fnoptions"), "{code}");
    }
}
