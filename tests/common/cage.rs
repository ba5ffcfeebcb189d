//! The memory of the gateway: a cgroup with the limit of the container where one can be made (cgroups(7), version 1 or 2),
//! otherwise the resident set by itself.

use super::process;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A cgroup of its own for one process; removed when dropped, which must be after the end of that process.
pub(crate) struct Cage {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Buffers of sockets are counted apart, and only if they have a limit.
    One,
    Two,
}

impl Cage {
    /// `None`: not permitted, or there is no memory controller.
    pub(crate) fn make(bytes: u64) -> Option<Self> {
        let (root, version) = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            true => ("/sys/fs/cgroup", Version::Two),
            false => ("/sys/fs/cgroup/memory", Version::One),
        };
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ssegateway-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        let folder = Path::new(root).join(name);
        fs::create_dir(&folder).ok()?;
        let cage = Self { folder, version };
        let limited = match version {
            Version::One => {
                cage.write("memory.limit_in_bytes", bytes)
                    // Beyond the limit of all, so that it only counts.
                    .and_then(|()| cage.write("memory.kmem.tcp.limit_in_bytes", 4 * bytes))
            }
            Version::Two => cage.write("memory.max", bytes),
        };
        limited.ok().map(|()| cage)
    }

    fn write(&self, file: &str, value: u64) -> std::io::Result<()> {
        fs::write(self.folder.join(file), value.to_string())
    }

    fn read(&self, file: &str) -> u64 {
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// The command with which a shell enters it.
    pub(crate) fn entry(&self) -> String {
        format!("echo $$ > {}", self.folder.join("cgroup.procs").display())
    }

    /// Bytes in use now: the process, and what the kernel holds for it, sockets included.
    pub(crate) fn used(&self) -> u64 {
        match self.version {
            Version::One => self.read("memory.usage_in_bytes") + self.read("memory.kmem.tcp.usage_in_bytes"),
            Version::Two => self.read("memory.current"),
        }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // The kernel lets go of a process shortly after it was waited for.
        super::eventually("the cgroup is empty", || fs::remove_dir(&self.folder).is_ok() || !self.folder.exists());
    }
}

/// The largest amounts seen, in KiB.
#[derive(Clone, Copy, Default)]
pub(crate) struct Peak {
    pub resident: usize,
    /// In the cgroup, with sockets and other memory of the kernel; 0: there is none.
    pub caged: usize,
}

impl Peak {
    pub(crate) fn look(&mut self, pid: u32, cage: Option<&Cage>) {
        self.resident = self.resident.max(process::rss_kib(pid));
        let caged = cage.map_or(0, |cage| cage.used() as usize / 1024);
        self.caged = self.caged.max(caged);
    }

    pub(crate) fn kib(self) -> usize {
        self.resident.max(self.caged)
    }
}

impl Display for Peak {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let mib = |kib: usize| kib as f64 / 1024.0;
        match self.caged {
            0 => write!(out, "{:.1} MiB, without sockets", mib(self.resident)),
            caged => write!(out, "{:.1} MiB, {:.1} MiB", mib(self.resident), mib(caged)),
        }
    }
}
