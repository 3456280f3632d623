//! What one file heard may be about that file alone; a second file that hears the same decides it. Pure.

/// Tells files apart, and nothing else.
pub(super) type FileId = u64;

/// What was heard last, and which file heard it first: that file stands for all files that hear it.
#[derive(Debug)]
pub(super) struct Suspicion<T>(Option<(T, FileId)>);

impl<T: PartialEq> Suspicion<T> {
    /// Notes that `file` has heard `what`. True where another file has heard the same, and nothing else was heard
    /// since.
    pub(super) fn is_shared(&mut self, what: T, file: FileId) -> bool {
        match &self.0 {
            Some((heard, first)) if *heard == what => *first != file,
            Some(_) | None => {
                self.0 = Some((what, file));
                false
            }
        }
    }
}

impl<T> Default for Suspicion<T> {
    fn default() -> Suspicion<T> {
        Suspicion(None)
    }
}
