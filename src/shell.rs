//! Quotes words of the shell commands that messages suggest.

use std::borrow::Cow;
use std::fmt::Display;

/// Quotes `word` for a POSIX shell if the shell would otherwise expand or split it. A word with a NUL byte, which no shell
/// accepts, stays as it is.
pub(crate) fn quote(word: impl Display) -> String {
    shlex::try_quote(&word.to_string()).map_or_else(|_| word.to_string(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_change_it() {
        for (word, quoted_word) in [
            ("etc/tokenmint.toml", "etc/tokenmint.toml"),
            ("http://127.0.0.1:8080/bundle", "http://127.0.0.1:8080/bundle"),
            ("WebAppKey1", "WebAppKey1"),
            ("my dir/tokenmint.toml", "'my dir/tokenmint.toml'"),
            ("~Key", "'~Key'"),
            ("$(reboot)", "'$(reboot)'"),
            ("", "''"),
        ] {
            assert_eq!(quote(word), quoted_word, "{word}");
        }
        // A word that contains a quote: the form may vary, but a shell must read the same word.
        assert_eq!(shlex::split(&quote("it's; rm -r x")), Some(vec!["it's; rm -r x".to_owned()]));
    }
}
