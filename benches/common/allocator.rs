//! An allocator that counts what the calling thread asks for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static IN_USE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counted; to be used as the program's global allocator.
pub(crate) struct Counting;

fn took(bytes: usize) {
    CALLS.set(CALLS.get() + 1);
    IN_USE.set(IN_USE.get().wrapping_add(bytes));
    PEAK.set(PEAK.get().max(IN_USE.get()));
}

fn gave(bytes: usize) {
    IN_USE.set(IN_USE.get().wrapping_sub(bytes));
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        gave(layout.size());
        took(new_size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Allocations so far, reallocations included.
pub(crate) fn calls() -> usize {
    CALLS.get()
}

/// Bytes allocated and not freed; only meaningful if no other thread frees them.
pub(crate) fn bytes_in_use() -> usize {
    IN_USE.get()
}

/// The most that [`bytes_in_use`] has been since [`forget_peak`].
pub(crate) fn bytes_at_peak() -> usize {
    PEAK.get()
}

pub(crate) fn forget_peak() {
    PEAK.set(IN_USE.get());
}
