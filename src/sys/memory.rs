//! Memory that glibc would keep: a heap per thread, free chunks, the stacks of ended threads.

use std::hint::black_box;

/// Makes all threads share one heap: an arena for each callback thread would cost memory and gain nothing here. Large
/// pieces, bodies above all, stay outside it and are given back at once: by default glibc takes them from the heap once
/// the first has been freed (mallopt(3), `M_MMAP_THRESHOLD`), where small ones between them keep their pages. Call before
/// any thread starts.
pub fn limit_heap() {
    /// glibc's first value.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    const LARGE_BYTES: libc::c_int = 128 * 1024;
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes plain integers; a refusal (0) leaves the default in place.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    };
}

/// Returns free heap pages to the system, which takes milliseconds on a large heap. For the idle time after a mass
/// disconnect.
pub fn release_heap() {
    empty_chunk_cache();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a plain integer and may be called at any time.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// glibc caches a few free chunks of each small size per thread, and each of them pins its page; after a crowd they are
/// scattered all over the heap. This takes them out of the cache and grows each into the free memory after it, to a
/// size that is not cached.
fn empty_chunk_cache() {
    /// glibc's defaults: seven chunks per size, sizes up to 1032 bytes in steps of 16.
    const CHUNKS_A_SIZE: usize = 7;
    const SIZE_MAX: usize = 1032;
    let mut chunks: Vec<Vec<u8>> = Vec::with_capacity(SIZE_MAX / 16 * CHUNKS_A_SIZE);
    for size in (24..=SIZE_MAX).step_by(16) {
        chunks.extend((0..CHUNKS_A_SIZE).map(|_| black_box(Vec::with_capacity(size))));
    }
    // From the highest address down, so that a chunk can grow into an adjacent one that has just been freed.
    chunks.sort_unstable_by_key(|chunk| chunk.as_ptr().addr());
    while let Some(mut chunk) = chunks.pop() {
        chunk.reserve_exact(SIZE_MAX + 1);
        black_box(chunk);
    }
}

/// Returns the unused pages of the calling thread's stack to the system. For a thread that is about to end: glibc keeps
/// its stack for the next thread, with every page that was ever touched.
pub fn release_stack() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use libc::c_void;
        use std::mem::MaybeUninit;

        // SAFETY: takes and returns plain integers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Some(page) = usize::try_from(page).ok().filter(|page| page.is_power_of_two()) else { return };
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        // SAFETY: pthread_getattr_np initialises the attributes or fails.
        if unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) } != 0 {
            return;
        }
        let (mut low, mut size) = (std::ptr::null_mut::<c_void>(), 0);
        // SAFETY: the attributes are initialised, destroyed once and not used after that.
        unsafe {
            libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size);
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        // This page and the one below it stay, for the frames of this function and its callees.
        let here = (&raw const size).addr();
        let end = (here & !(page - 1)).saturating_sub(page);
        if let Some(length) = end.checked_sub(low.addr()).filter(|length| *length < size) {
            // SAFETY: the range is in this thread's own stack, below every frame in use, so it holds nothing live; it
            // reads as zeroes from now on.
            unsafe { libc::madvise(low, length, libc::MADV_DONTNEED) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_stack_goes_on_working() {
        fn depth(left: u32) -> u64 {
            let filler = std::hint::black_box([u64::from(left); 256]);
            if left == 0 { filler[0] } else { depth(left - 1) + filler[255] }
        }
        let thread = std::thread::spawn(|| {
            let before = depth(100);
            release_stack();
            let after = depth(100);
            release_stack();
            (before, after)
        });
        let (before, after) = thread.join().unwrap();
        assert_eq!((before, after), (5050, 5050));
    }
}
