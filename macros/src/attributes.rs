//! From `#[job(..)]` to a list of `key = value` pairs. The tokens are split at their commas before anything is parsed,
//! so that a mistake in one setting does not hide the mistakes in the others.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Ident, Lit, Meta, Token};

/// All the mistakes of one derive; the compiler shows each at its own place.
#[derive(Default)]
pub(crate) struct Mistakes(Vec<syn::Error>);

impl Mistakes {
    /// Notes a mistake at `place`.
    pub(crate) fn at(&mut self, place: Span, what: impl std::fmt::Display) {
        self.0.push(syn::Error::new(place, what));
    }

    /// Notes what went wrong, if it did, and goes on with the value, if there is one.
    pub(crate) fn ok<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// The errors as code for the compiler to trip over; nothing if there are none.
    pub(crate) fn into_tokens(self) -> TokenStream {
        self.0.iter().map(syn::Error::to_compile_error).collect()
    }

    #[cfg(test)]
    pub(crate) fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

/// One `key = value`.
pub(crate) struct Pair {
    /// The key.
    pub(crate) key: Ident,
    /// The value: every setting takes a literal.
    pub(crate) value: Value,
}

/// The value of a setting, with the place to point at.
pub(crate) struct Value {
    /// What was written.
    pub(crate) lit: Written,
    /// Where.
    pub(crate) span: Span,
}

/// What was written as a value.
pub(crate) enum Written {
    /// A literal.
    Lit(Lit),
    /// A minus sign and a number.
    Negative,
    /// Something else, such as a path or a type without quotes.
    Other(String),
}

/// The pairs of all `#[job(..)]` attributes, in order.
pub(crate) fn pairs(attributes: &[Attribute], mistakes: &mut Mistakes) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("job")) {
        match &attribute.meta {
            Meta::List(list) => {
                for piece in pieces(list.tokens.clone(), mistakes) {
                    pairs.extend(mistakes.ok(pair.parse2(piece)));
                }
            }
            other => mistakes.at(
                syn::spanned::Spanned::span(other),
                "settings go in parentheses: `#[job(name = \"email.welcome\", queue = \"emails\")]`",
            ),
        }
    }
    pairs
}

/// The tokens between the commas. A comma at the end is fine; two in a row are not.
fn pieces(tokens: TokenStream, mistakes: &mut Mistakes) -> Vec<TokenStream> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => {
                if piece.is_empty() {
                    mistakes.at(comma.span(), "there is no setting before this comma");
                }
                pieces.push(piece.drain(..).collect());
            }
            token => piece.push(token),
        }
    }
    pieces.push(piece.into_iter().collect());
    pieces.retain(|piece: &TokenStream| !piece.is_empty());
    pieces
}

fn pair(input: ParseStream<'_>) -> syn::Result<Pair> {
    // `parse_any`, because `crate` is a keyword.
    let key = input.call(Ident::parse_any).map_err(|error| {
        syn::Error::new(error.span(), "a setting starts with its name, such as `queue = \"emails\"`")
    })?;
    if !input.peek(Token![=]) {
        return Err(syn::Error::new(key.span(), format!("`{key}` takes a value: `{key} = ..`")));
    }
    input.parse::<Token![=]>()?;
    if input.is_empty() {
        return Err(syn::Error::new(key.span(), format!("`{key} =` has no value after it")));
    }
    let value = value(input)?;
    if !input.is_empty() {
        return Err(input.error(format!("a comma is missing after the value of `{key}`")));
    }
    Ok(Pair { key, value })
}

fn value(input: ParseStream<'_>) -> syn::Result<Value> {
    if input.peek(Lit) {
        let lit: Lit = input.parse()?;
        return Ok(Value { span: lit.span(), lit: Written::Lit(lit) });
    }
    // What it is matters only for the message, so everything up to the comma is taken.
    let span = input.span();
    let negative = input.peek(Token![-]);
    let rest: TokenStream = input.parse()?;
    let lit = if negative { Written::Negative } else { Written::Other(rest.to_string().replace(' ', "")) };
    Ok(Value { lit, span })
}
