//! A secret in a file, read with suspicion: the wrong file may be mounted.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str,
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::fs::OFlags;
use secrecy::zeroize::Zeroizing;

use super::{ApiKey, Invalid, misplaced};

/// A key file larger than this is not a key file.
const MAX_BYTES: usize = 8 * 1024;

/// How long the writer of a pipe may take. Callers of `read_in_time` wait longer than this.
const PIPE_PATIENCE: Duration = Duration::from_secs(1);

/// Between two tries at a pipe that has nothing yet.
const PIPE_PAUSE: Duration = Duration::from_millis(20);

/// How long the start waits for the file: less than the two seconds in which somebody at a terminal wants to hear.
pub const START_PATIENCE: Duration = Duration::from_millis(1500);

/// Why a file gives no key. Never says what stands in it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("cannot read {path}: {error}")]
    Io { path: String, error: io::Error },
    #[error("{0} is a directory")]
    Directory(String),
    #[error("{0} is larger than {MAX_BYTES} bytes")]
    TooLarge(String),
    #[error("the file cannot be read in time: a pipe without a writer, or a mount that does not answer")]
    TooSlow,
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Reads at most `MAX_BYTES`, whatever `path` is: a pipe or a device has no length before it is read, and perhaps no
/// end. Blocks, for a pipe at most `PIPE_PATIENCE`, on a dead mount for as long as that is dead.
///
/// # Errors
/// Whenever there is no valid key in it.
pub fn read(path: &Path) -> Result<ApiKey, Unreadable> {
    Ok(ApiKey::new(&read_text(path)?)?)
}

/// The text of such a file, under the same bounds.
///
/// # Errors
/// Whenever there is no text in it.
pub fn read_text(path: &Path) -> Result<Zeroizing<String>, Unreadable> {
    let shown = || misplaced::shown_path(path);
    let io = |error| Unreadable::Io { path: shown(), error };
    // Opening a pipe waits for a writer, and no deadline ends that wait: so it is opened without waiting.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag of open(2) is an int");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
    let kind = file.metadata().map_err(io)?.file_type();
    if kind.is_dir() {
        return Err(Unreadable::Directory(shown()));
    }
    let content = match read_bounded(file, kind.is_fifo()) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Unreadable::TooSlow),
        Err(error) => return Err(io(error)),
    };
    if content.len() > MAX_BYTES {
        return Err(Unreadable::TooLarge(shown()));
    }
    let text = str::from_utf8(&content).map_err(|_| io(io::Error::new(ErrorKind::InvalidData, "it is no text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Up to one byte more than a key file has; `WouldBlock` where it takes too long.
fn read_bounded(mut file: File, is_pipe: bool) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(vec![0; MAX_BYTES + 1]);
    let (mut length, mut pauses) = (0, 0);
    while length < content.len() {
        match file.read(&mut content[length..]) {
            // Nobody has opened the pipe for writing yet.
            Ok(0) if is_pipe && length == 0 => {}
            Ok(0) => break,
            Ok(read) => {
                length += read;
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        pauses += 1;
        if PIPE_PAUSE * pauses > PIPE_PATIENCE {
            return Err(ErrorKind::WouldBlock.into());
        }
        thread::sleep(PIPE_PAUSE);
    }
    content.truncate(length);
    Ok(content)
}

/// The same within `patience`, whatever the file is. A read that takes longer is left behind on a thread of its own.
///
/// # Errors
/// Whenever there is no valid key in it, or it takes too long.
pub fn read_in_time(path: &Path, patience: Duration) -> Result<ApiKey, Unreadable> {
    in_time(path, patience, read)
}

/// Another secret's text, in the same way.
///
/// # Errors
/// Whenever there is no text of at most `MAX_BYTES` in it, or it takes too long.
pub fn read_text_in_time(path: &Path, patience: Duration) -> Result<Zeroizing<String>, Unreadable> {
    in_time(path, patience, read_text)
}

fn in_time<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    read: impl FnOnce(&Path) -> Result<T, Unreadable> + Send + 'static,
) -> Result<T, Unreadable> {
    let path: PathBuf = path.to_owned();
    let (sender, receiver) = mpsc::sync_channel(1);
    let reading = move || {
        let _ = sender.send(read(&path));
    };
    let io = |error| Unreadable::Io { path: "the file".to_owned(), error };
    thread::Builder::new().name("key file".to_owned()).spawn(reading).map_err(io)?;
    receiver.recv_timeout(patience).unwrap_or(Err(Unreadable::TooSlow))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn pipe(folder: &tempfile::TempDir) -> PathBuf {
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        path
    }

    #[test]
    fn a_pipe_gives_its_key_and_one_without_a_writer_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(&folder);
        assert!(matches!(read(&path), Err(Unreadable::TooSlow)));
        let writer = {
            let path = path.clone();
            thread::spawn(move || std::fs::write(path, "a-key-from-a-pipe\n").unwrap())
        };
        assert!(read(&path).unwrap().is(&ApiKey::new("a-key-from-a-pipe").unwrap()));
        writer.join().unwrap();
    }

    #[test]
    fn a_pipe_whose_writer_says_nothing_is_given_up_in_time_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(&folder);
        // Opened at both ends, since opening the writing end alone waits for a reader.
        let silent = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let clock = Clock::system();
        let began = clock.now();
        assert!(matches!(read(&path), Err(Unreadable::TooSlow)));
        assert!(clock.now().since(began) >= PIPE_PATIENCE);
        drop(silent);
    }

    #[test]
    fn what_is_no_file_is_told_by_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path()), Err(Unreadable::Directory(_))));
        assert!(matches!(read(Path::new("/dev/zero")), Err(Unreadable::TooLarge(_))));
        assert!(matches!(read(Path::new("/dev/null")), Err(Unreadable::Invalid(Invalid::Empty))));
        assert!(matches!(read(&folder.path().join("none")), Err(Unreadable::Io { .. })));
        // This file can be opened, and nothing stands where it begins.
        assert!(matches!(read(Path::new("/proc/self/mem")), Err(Unreadable::Io { .. })));
    }
}
