//! What people type, with a key in the wrong place: how much of it may be repeated to them. Reads no file, but asks
//! whether one is there.

use std::path::{Component, Path, PathBuf};

/// Letters and digits in a row that may be a key or a part of one. Words are shorter.
const SECRET_RUN: usize = 16;

/// Whether `text` has as many letters and digits in a row as a secret has.
pub(crate) fn may_be_a_key(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|run| run.len() >= SECRET_RUN)
}

/// `path` as a message may show it. SECURITY: where nothing is there, the text may be the key itself, in the wrong
/// variable, with slashes in it as base64 has them. It is repeated only if the first folder that it names is there, and
/// what follows is no key.
pub(crate) fn shown_path(path: &Path) -> String {
    if path.symlink_metadata().is_ok() || is_below_a_folder(path) {
        return path.display().to_string();
    }
    "a file whose path is not shown (nothing is there, and it may be a key)".to_owned()
}

fn is_below_a_folder(path: &Path) -> bool {
    let mut folder = PathBuf::new();
    let mut parts = path.components();
    // The root and the current folder are always there, and prove nothing.
    for part in parts.by_ref() {
        folder.push(part);
        if matches!(part, Component::Normal(_)) {
            break;
        }
    }
    let rest = parts.as_path().to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    !rest.is_empty() && rest.bytes().all(plain) && !may_be_a_key(&rest) && folder.is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_repeated_where_it_or_its_first_folder_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("0123456789abcdef0123456789abcdef");
        std::fs::write(&there, "").unwrap();
        let base = folder.path().display().to_string();
        for (path, shown) in [
            (there.display().to_string(), true),
            (format!("{base}/missing.toml"), true),
            (format!("{base}/no/such/kie-api-key_2.next"), true),
            (format!("{base}/0123456789abcdef"), false),
            (format!("{base}/abc/def+ghi=="), false),
            ("/dev/null".to_owned(), true),
            ("/dev/missing".to_owned(), true),
            ("/missing".to_owned(), false),
            ("/missing/missing".to_owned(), false),
            ("src/missing".to_owned(), true),
            ("missing".to_owned(), false),
            ("./missing".to_owned(), false),
            ("abc/def".to_owned(), false),
            ("abc/def+ghi==".to_owned(), false),
            ("/abc/def+ghi==".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(shown_path(Path::new(&path)) == path, shown, "{path}");
        }
    }

    #[test]
    fn sixteen_letters_and_digits_in_a_row_may_be_a_key() {
        for (text, may_be) in [
            ("", false),
            ("0123456789abcde", false),
            ("0123456789abcdef", true),
            ("--0123456789ABCDEF=1", true),
            ("kielink.internal-network.example", false),
            ("01234567-89abcdef", false),
        ] {
            assert_eq!(may_be_a_key(text), may_be, "{text}");
        }
    }
}
