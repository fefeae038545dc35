//! Disks of our own: small file systems in memory that can be filled and marked read-only, and file systems in an image
//! file that can be copied at any moment, as a power cut would leave them. Only root may mount either.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    point: TempDir,
}

fn run(command: &str, arguments: &[&str]) -> Result<(), String> {
    match Command::new(command).args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("{command}: {error}")),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Disk {
    fn mount(arguments: &[&str]) -> Self {
        let point = crate::store::directory();
        let directory = text(point.path());
        if let Err(why) = run("mount", &[arguments, &[&directory]].concat()) {
            panic!(
                "this test needs a file system of its own and could not mount one: {why}\nRun it as root, with the right \
                 to mount (in a container: docker run --privileged)."
            );
        }
        Disk { point }
    }

    /// A file system in memory.
    ///
    /// # Panics
    /// If it can't be mounted; the message says what is needed.
    pub fn in_memory(kib: u32) -> Self {
        Disk::mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "ferroq-test"])
    }

    /// The file system in this image, with nothing written back but what a program asks for: what is in the image at any
    /// moment is what a power cut then would leave.
    ///
    /// # Panics
    /// If it can't be mounted; the message says what is needed.
    pub fn of_image(image: &Path) -> Self {
        Disk::mount(&["-t", "ext4", "-o", "loop,commit=600,noatime", &text(image)])
    }

    /// The directory at which it is mounted.
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// A database on it.
    pub fn db(&self) -> PathBuf {
        self.path().join("app.db")
    }

    /// Mounts it anew with an option, such as `ro`.
    ///
    /// # Panics
    /// If that can't be done.
    pub fn remount(&self, option: &str) {
        run("mount", &["-o", &format!("remount,{option}"), &text(self.path())]).expect("remount");
    }

    /// Takes all the room that is left.
    ///
    /// # Panics
    /// If there is not even room for an empty file.
    pub fn fill(&self) {
        let ballast = self.path().join("ballast");
        let mut ballast = std::fs::OpenOptions::new().create(true).append(true).open(ballast).expect("the ballast");
        for bytes in [4096, 1] {
            while ballast.write_all(&vec![0; bytes]).is_ok() {}
        }
    }

    /// Gives that room back.
    ///
    /// # Panics
    /// If it was not filled.
    pub fn free(&self) {
        std::fs::remove_file(self.path().join("ballast")).expect("remove the ballast");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a connection that a failed test left open must not keep the mount.
        drop(run("umount", &["-l", &text(self.path())]));
    }
}

/// Makes an image with an empty file system.
///
/// # Panics
/// If it can't be made.
pub fn make_image(image: &Path, mib: u64) {
    let file = std::fs::File::create(image).expect("the image");
    file.set_len(mib << 20).expect("the image's size");
    run("mkfs.ext4", &["-q", "-F", &text(image)]).expect("a file system in the image");
}

/// Writes back everything that is in memory only, on all disks.
///
/// # Panics
/// If that can't be done.
pub fn sync() {
    run("sync", &[]).expect("sync");
}
