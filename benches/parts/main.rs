//! Parts of the gateway in isolation, without a kernel: their time (`make bench-parts`), and their instructions
//! (`make bench-instructions`), a figure that is the same in every run.

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod instructions;

use cases::{CASES, Case};
use divan::Bencher;
use divan::counter::ItemsCount;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("instructions") => instructions::print_table(),
        Some("instructions-of") => instructions::work(arguments.next().and_then(|index| index.parse().ok())),
        Some(_) | None => divan::main(),
    }
}

#[divan::bench(args = &CASES)]
fn part(bencher: Bencher, case: &Case) {
    bencher.counter(ItemsCount::new(case.pieces)).bench_local((case.prepare)());
}
