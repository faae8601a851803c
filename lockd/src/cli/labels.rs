//! Labels of sessions on the command line.

use lockd_client::protocol::client::Labels;
use lockd_client::protocol::client::about::is_label_key;
use lockd_client::protocol::limits::LABEL_KEY_BYTES_MAX;

/// A label as it is given: `KEY=VALUE`.
pub(super) type Label = (String, String);

/// Takes a label apart.
pub(super) fn parse(text: &str) -> Result<Label, String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("write it as KEY=VALUE".to_owned());
    };
    if !is_label_key(key) {
        return Err(format!(
            "the key {key:?} must have 1 to {LABEL_KEY_BYTES_MAX} ASCII letters, digits, `.`, \
             `_`, `-` and `/`"
        ));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Labels for a table.
pub(super) fn to_text(labels: &Labels) -> String {
    if labels.is_empty() {
        return "-".to_owned();
    }
    let each = labels.iter().map(|(key, value)| format!("{key}={value}"));
    each.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_key_and_a_value_that_may_have_anything_in_it() {
        assert_eq!(parse("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse("a").is_err_and(|error| error.contains("KEY=VALUE")));
        assert!(parse("a b=c").is_err_and(|error| error.contains("\"a b\"")));
    }
}
