//! A file that a command writes: known to be writable before anything is collected, and never half written.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// An output file under its later name's neighbour, `.NAME.partial`; a device or pipe is written directly.
#[derive(Debug)]
pub(super) struct OutputFile {
    /// Where it will be.
    path: PathBuf,
    /// What to write to.
    pub(super) file: File,
    partial: Option<PathBuf>,
}

impl OutputFile {
    /// Opens it for writing. What was there stays until [`OutputFile::keep`].
    pub(super) fn create(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        let special = fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
        if special {
            let file = OpenOptions::new().write(true).open(path).context(cannot)?;
            return Ok(Self { path: path.to_owned(), file, partial: None });
        }
        if path.is_dir() {
            return Err(crate::Error::usage(cannot()).because("it is a directory"));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        // Never through a link that someone left in a shared directory.
        let file = OpenOptions::new().write(true).create_new(true).open(&partial).context(cannot)?;
        Ok(Self { path: path.to_owned(), file, partial: Some(partial) })
    }

    /// Gives it its name.
    pub(super) fn keep(&mut self) -> Result<()> {
        if let Some(partial) = self.partial.take() {
            fs::rename(&partial, &self.path)?;
        }
        Ok(())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // What is half written is of no use; that it can't be removed changes nothing.
            let _ = fs::remove_file(partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn half_written_files_leave_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.svg");
        fs::write(&path, "old").unwrap();
        let mut output = OutputFile::create(&path).unwrap();
        output.file.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let mut output = OutputFile::create(&path).unwrap();
        output.file.write_all(b"new").unwrap();
        output.keep().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_directory_is_known_at_once() {
        let err = OutputFile::create(Path::new("/nonexistent/x.svg")).unwrap_err();
        assert_eq!(err.message(), "cannot write /nonexistent/x.svg");
    }
}
