//! The limit of memory that a container or a service manager has set (cgroups(7), version 1 and 2).

use std::fs;
use std::path::Path;

/// Version 1 says "no limit" with the largest multiple of a page; nothing has so much.
const UNLIMITED: u64 = 1 << 60;

/// The lowest limit of this process's cgroup and those above it, in bytes; `None` without one.
pub fn memory_limit() -> Option<u64> {
    limit(|path| fs::read_to_string(path).ok())
}

fn limit(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let groups = read("/proc/self/cgroup")?;
    let limits = groups.lines().filter_map(|line| {
        // hierarchy:controllers:path; version 2 names no controllers.
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, file) = match controllers {
            "" if read("/sys/fs/cgroup/cgroup.controllers").is_some() => ("/sys/fs/cgroup", "memory.max"),
            "" => ("/sys/fs/cgroup/unified", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // In a container the path can be that of the host, and the root its own.
        let groups = Path::new(path).ancestors().map(|group| group.to_string_lossy().into_owned());
        groups
            .filter_map(|group| read(&format!("{root}{}/{file}", group.trim_end_matches('/')))?.trim().parse().ok())
            .min()
    });
    limits.min().filter(|limit| *limit < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_of(files: &[(&str, &str)]) -> Option<u64> {
        limit(|path| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn the_lowest_limit_up_to_the_root_counts() {
        let own = ("/proc/self/cgroup", "0::/a/b\n");
        let mounted = ("/sys/fs/cgroup/cgroup.controllers", "memory\n");
        assert_eq!(limit_of(&[]), None);
        assert_eq!(limit_of(&[own, mounted]), None);
        assert_eq!(limit_of(&[own, mounted, ("/sys/fs/cgroup/a/b/memory.max", "max\n")]), None);
        let (inner, outer) = (("/sys/fs/cgroup/a/b/memory.max", "900\n"), ("/sys/fs/cgroup/a/memory.max", "700\n"));
        assert_eq!(limit_of(&[own, mounted, inner]), Some(900));
        assert_eq!(limit_of(&[own, mounted, inner, outer]), Some(700));
        let container = ("/proc/self/cgroup", "0::/\n");
        assert_eq!(limit_of(&[container, mounted, ("/sys/fs/cgroup/memory.max", "800\n")]), Some(800));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_memory() {
        let own = ("/proc/self/cgroup", "9:cpu:/x\n4:memory:/a\n0::/\n");
        assert_eq!(limit_of(&[own, ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")]), None);
        assert_eq!(limit_of(&[own, ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "67108864\n")]), Some(64 << 20));
        assert_eq!(limit_of(&[own, ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n")]), Some(1000));
    }
}
