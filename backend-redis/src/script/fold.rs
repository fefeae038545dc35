//! Constants of the scripts. Lua looks a local name of the outer level up for every function that uses it, each time it makes that
//! function, and scripts make theirs anew for every call; so a name that only stands for a number or a text costs as much as
//! one that changes. In the files such names are declared as is usual, at the left margin and in capitals:
//! `local WAITING, DELAYED = 0, 1` or `local M = { FOR = 1 }`. Here their values are put in the places of the names, in the file
//! that declares them and in those after it, and comments are left out. Lines stay where they are, for the sake of error messages.

use std::collections::HashMap;

/// What a constant stands for.
#[derive(Debug)]
enum Value<'a> {
    One(&'a str),
    Table(HashMap<&'a str, &'a str>),
}

/// The constants met so far.
#[derive(Debug, Default)]
pub(super) struct Constants<'a>(HashMap<&'a str, Value<'a>>);

impl<'a> Constants<'a> {
    /// Puts values in the places of names in one more file.
    pub(super) fn fold(&mut self, file: &'a str) -> String {
        let tokens = tokens(file);
        let mut folded = String::with_capacity(file.len());
        let mut at = 0;
        while let Some(&token) = tokens.get(at) {
            let is_margin = token == "local" && (at == 0 || tokens[at - 1] == "\n");
            if is_margin && let Some(end) = self.declare(&tokens[at..]) {
                let lines = tokens[at..at + end].iter().flat_map(|token| token.chars()).filter(|c| *c == '\n');
                folded.extend(lines);
                at += end;
                continue;
            }
            let is_field = at > 0 && tokens[at - 1] == "." && (at == 1 || tokens[at - 2] != ".");
            match self.0.get(token) {
                Some(Value::One(value)) if !is_field => folded.push_str(value),
                Some(Value::Table(fields)) if !is_field && tokens.get(at + 1) == Some(&".") => {
                    match tokens.get(at + 2).and_then(|field| fields.get(field)) {
                        Some(value) => {
                            folded.push_str(value);
                            at += 2;
                        }
                        None => folded.push_str(token),
                    }
                }
                _ if token.starts_with("--") => {}
                _ => folded.push_str(token),
            }
            at += 1;
        }
        folded
    }

    /// Takes in a declaration of constants, if these tokens begin with one; how many tokens that is.
    fn declare(&mut self, tokens: &[&'a str]) -> Option<usize> {
        let mut reader = Reader { tokens, at: 0 };
        reader.take("local")?;
        let mut names = vec![reader.constant()?];
        while reader.take(",").is_some() {
            names.push(reader.constant()?);
        }
        reader.take("=")?;
        let mut declared = Vec::with_capacity(names.len());
        if reader.take("{").is_some() {
            let mut fields = HashMap::new();
            while reader.take("}").is_none() {
                let field = reader.constant()?;
                reader.take("=")?;
                fields.insert(field, reader.literal()?);
                reader.take(",");
            }
            declared.push((*names.first()?, Value::Table(fields)));
        } else {
            for (n, name) in names.iter().copied().enumerate() {
                if n > 0 {
                    reader.take(",")?;
                }
                declared.push((name, Value::One(reader.literal()?)));
            }
        }
        // Anything more would make it an expression.
        if declared.len() != names.len() || !reader.is_at_line_end() {
            return None;
        }
        self.0.extend(declared);
        Some(reader.at)
    }
}

/// Reads tokens, passing over what is between them.
struct Reader<'t, 'a> {
    tokens: &'t [&'a str],
    at: usize,
}

impl<'a> Reader<'_, 'a> {
    fn peek(&mut self) -> Option<&'a str> {
        while self.tokens.get(self.at).is_some_and(|token| is_between(token)) {
            self.at += 1;
        }
        self.tokens.get(self.at).copied()
    }

    fn take(&mut self, wanted: &str) -> Option<&'a str> {
        let token = self.peek().filter(|token| *token == wanted)?;
        self.at += 1;
        Some(token)
    }

    fn constant(&mut self) -> Option<&'a str> {
        let token = self.peek().filter(|token| {
            token.starts_with(|c: char| c.is_ascii_uppercase())
                && token.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        })?;
        self.at += 1;
        Some(token)
    }

    /// A number, a text, or one of the script's keys.
    fn literal(&mut self) -> Option<&'a str> {
        let token = self
            .peek()
            .filter(|token| token.starts_with(|c: char| c.is_ascii_digit() || c == '\'') || is_key(token))?;
        self.at += 1;
        Some(token)
    }

    fn is_at_line_end(&self) -> bool {
        self.tokens[self.at..].iter().find(|token| **token != " ").is_none_or(|token| *token == "\n")
    }
}

fn is_between(token: &str) -> bool {
    token.starts_with("--") || token.starts_with(|c: char| c.is_ascii_whitespace())
}

/// A file in pieces: words, numbers, texts, keys by their number, comments up to the end of their line, and single characters.
pub(super) fn tokens(file: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = file;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '\'' => text_len(rest),
            'K' if is_key(rest) => rest.find(']').map_or(rest.len(), |end| end + 1),
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(len);
        tokens.push(token);
        rest = after;
    }
    tokens
}

/// Whether this begins with one of the script's keys, by its number.
fn is_key(rest: &str) -> bool {
    let number = rest.strip_prefix("KEYS[").and_then(|rest| rest.split_once(']'));
    number.is_some_and(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()))
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// How long the text is with which this begins, its quotes included.
fn text_len(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '\'' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(files: &[&str]) -> String {
        let mut constants = Constants::default();
        files.iter().map(|file| constants.fold(file)).collect()
    }

    #[test]
    fn values_stand_in_the_places_of_names() {
        assert_eq!(
            folded(&["local ONE, TWO = 1, 'it\\'s two'\n", "return ONE .. TWO -- ONE\n"]),
            "\nreturn 1 .. 'it\\'s two' \n"
        );
        assert_eq!(
            folded(&["local K = { META = KEYS[1],\n  RUN = KEYS[3] }\nreturn K.RUN, K.META\n"]),
            "\n\nreturn KEYS[3], KEYS[1]\n"
        );
    }

    #[test]
    fn what_is_no_name_of_a_constant_stays() {
        let kept = "return x.ONE, 'ONE', 'it\\'s ONE', ONES, x.M.FOR, M.OTHER, M['FOR']\n";
        assert_eq!(folded(&["local ONE = 1\nlocal M = { FOR = 1 }\n", kept]), format!("\n\n{kept}"));
    }

    #[test]
    fn what_is_no_constant_is_declared_as_it_was() {
        for kept in [
            "local LIST = { 1, 2 }\n",
            "local SUM = 1 + 2\n",
            "local now = 1\n",
            "  local INNER = 1\n",
            "local TWO, MORE = 1\n",
        ] {
            assert_eq!(folded(&[kept]), kept);
        }
    }
}
