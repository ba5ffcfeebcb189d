//! The standard descriptors in a process that was started without them.

/// Runs [`open_closed`] before `main`. The standard library opens `/dev/null` in place of a closed standard descriptor
/// and aborts where there is none, as in an empty root; that is before `main`, too.
// SAFETY: the section holds pointers to functions, which the C library calls one by one once it is ready for system
// calls; arguments that it may pass are ignored.
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
#[used]
static BEFORE_MAIN: extern "C" fn() = open_closed;

/// Opens those of the descriptors 0, 1 and 2 that are closed, so that no socket gets their numbers. Without `/dev/null`
/// a pipe is used instead: reads find its end, and writes fail with EBADF, which the standard library counts as
/// written.
extern "C" fn open_closed() {
    for descriptor in 0..=2 {
        // SAFETY: takes plain integers.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } >= 0 {
            continue;
        }
        // SAFETY: the path is NUL-terminated and static. The lowest free descriptor is taken, which is this one.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } >= 0 {
            continue;
        }
        let mut ends = [-1; 2];
        // SAFETY: the pointer is to two integers. The end for reading gets the lowest free descriptor, this one; the
        // other end was opened just now and has no owner.
        unsafe {
            if libc::pipe(ends.as_mut_ptr()) == 0 {
                libc::close(ends[1]);
            }
        }
    }
}
