//! Products of bf16 pairs with AMX: blocks of 32 × 32 sums in eight registers of 16 × 16 words ("tiles").
//!
//! `tdpbf16ps` multiplies 16 rows of 16 pairs with 16 pairs of 16 columns: for every sum, the products of the first values and
//! those of the second ones are added up apart, pair by pair, each from 0; both together are added to what the sum was. Each
//! product is exact, each sum rounded to the nearest f32; what is below the normal numbers is taken and given as 0 (Intel's
//! Software Developer's Manual, TDPBF16PS). Pieces of 16 pairs follow one another in their order, so a sum's bits depend on
//! nothing but the inner dimension.
//!
//! The compiler knows the registers by name only, so everything between loading and storing sums is one piece of assembly.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::LazyLock;

use super::bf16::PANEL;
use super::memory::Workspace;
use super::strides::Strides;
use super::turn::transpose;

/// The environment variable that switches tiles off: for runs that are to end in the bytes of CPUs without them.
const OFF: &str = "GANFORGE_NO_AMX";

/// Rows of a tile, and words of a row.
pub(super) const SIDE: usize = 16;
/// Rows and columns of a block of sums.
const BLOCK: usize = 2 * SIDE;
/// Bytes of a word.
pub(super) const WORD: usize = size_of::<u32>();
/// Rows, and words of the inner dimension, whose first factor (1 MB) stays in the second cache of cores that have tiles.
const ROWS: usize = 512;
const DEPTH: usize = 32 * SIDE;
/// Words of the inner dimension below which the tiles are too empty to be worth their configuration.
const MIN_WORDS: usize = 8;

/// Whether products of these sizes are multiplied with tiles: so many words of the inner dimension, and so many columns of all
/// of the second factor. Rows play no part, and a part of the columns is asked for by the number of all, so that bits do not
/// depend on how a product is cut.
pub(super) fn takes(words: usize, columns: usize) -> bool {
    words >= MIN_WORDS && columns >= SIDE && is_there()
}

/// Whether this CPU has tiles of bf16, the system saves them, and it has allowed this process to use them; and whether nobody
/// has said that they are to be left alone ([`OFF`]).
pub(in crate::nn) fn is_there() -> bool {
    static IS_THERE: LazyLock<bool> = LazyLock::new(|| std::env::var_os(OFF).is_none() && is_in_cpu() && is_allowed());
    *IS_THERE
}

fn is_in_cpu() -> bool {
    /// The feature bits of tiles and of their products in bf16 (leaf 7), and of a system that saves registers its own way (leaf
    /// 1).
    const TILES: u32 = 1 << 24 | 1 << 22;
    const OSXSAVE: u32 = 1 << 27;
    /// What the system must save: the configuration of tiles and their values.
    const SAVED: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the caller has asked whether the system uses it.
        unsafe { _xgetbv(0) }
    }
    // Unsafe until Rust 1.94.
    #[allow(unused_unsafe)]
    // SAFETY: every CPU of 64 bits has the instruction.
    let has = unsafe { __cpuid(0).eax >= 7 && __cpuid(1).ecx & OSXSAVE != 0 && __cpuid_count(7, 0).edx & TILES == TILES };
    if !has {
        return false;
    }
    // SAFETY: the CPU has the instruction, for the system uses it.
    unsafe { saved() & SAVED == SAVED }
}

/// Asks Linux for the registers, which threads have only where their process has asked (Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn is_allowed() -> bool {
    const ARCH_REQ_XCOMP_PERM: nix::libc::c_long = 0x1023;
    const TILE_DATA: nix::libc::c_long = 18;
    // SAFETY: the call takes two numbers.
    unsafe { nix::libc::syscall(nix::libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_allowed() -> bool {
    false
}

/// As [`super::bf16::multiply`], of a first factor whose words, or whose rows, lie side by side.
///
/// # Safety
/// As there; [`takes`] must have said so.
pub(super) unsafe fn multiply(
    [m, words, n]: [usize; 3],
    columns: Range<usize>,
    a: &[u32],
    sa: Strides,
    b: &[u32],
    c: *mut f32,
    add: bool,
) {
    let tiles = Tiles::default();
    // Tiles want the words of a row side by side.
    let turns = sa.column_step != 1;
    debug_assert!(!turns || sa.row_step == 1);
    let len = if turns { m.min(ROWS) * words.min(DEPTH) } else { 0 };
    let mut workspace = Workspace::new::<u32>(&[len]);
    let [turned] = workspace.slices::<u32, 1>([len]);
    for first in (0..m).step_by(ROWS) {
        let rows = (m - first).min(ROWS);
        for (start, depth) in depths(words) {
            let a = &a[first * sa.row_step + start * sa.column_step..];
            let (a, row_step) = if turns {
                transpose(a, sa.column_step, turned, depth, [depth, rows]);
                (&*turned, depth)
            } else {
                (a, sa.row_step)
            };
            for panel in columns.clone().step_by(PANEL) {
                let width = (n - panel).min(PANEL);
                for (column, row) in blocks(width, rows) {
                    let block = Block {
                        a: a.as_ptr().wrapping_add(row * row_step),
                        a_step: WORD * row_step,
                        b: b.as_ptr().wrapping_add(panel * words + start * width + column),
                        b_step: WORD * width,
                        c: c.wrapping_add((first + row) * n + panel + column),
                        c_step: WORD * n,
                        count: depth.div_ceil(SIDE),
                        add: add || start > 0,
                    };
                    // SAFETY: the block lies within what the caller answers for.
                    unsafe {
                        tiles.configure_block((rows - row).min(BLOCK), (width - column).min(BLOCK), depth.min(SIDE));
                        block.multiply(rows - row > SIDE, width - column > SIDE);
                    }
                }
            }
        }
    }
}

/// The pieces that an inner dimension is multiplied in, by first word and length: whole tiles, as many as the caches hold, then
/// what is left, which the tiles are made smaller for.
fn depths(words: usize) -> impl Iterator<Item = (usize, usize)> {
    let whole = words / SIDE * SIDE;
    let of_tiles = (0..whole).step_by(DEPTH).map(move |start| (start, (whole - start).min(DEPTH)));
    of_tiles.chain((whole < words).then_some((whole, words - whole)))
}

/// The blocks of a panel: first column and row.
fn blocks(width: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..width).step_by(BLOCK).flat_map(move |column| (0..rows).step_by(BLOCK).map(move |row| (column, row)))
}

/// The eight tiles of this thread, in use. Dropped, they are given back: a thread that has none is switched faster.
#[derive(Default)]
pub(super) struct Tiles {
    /// Rows and words of a row that each is configured for; nothing yet if 0.
    sizes: Cell<[[usize; 2]; 8]>,
    /// They are those of one thread.
    of_thread: PhantomData<*const ()>,
}

impl Tiles {
    /// With so many rows and words of a row each, 16 at most. One that is not used has none.
    ///
    /// # Safety
    /// The CPU must have tiles, and the system have allowed them ([`is_there`]). While this one is in use its thread has no
    /// other, and waits for no task, in whose place it might work on another that has.
    pub unsafe fn configure(&self, sizes: [[usize; 2]; 8]) {
        if self.sizes.replace(sizes) == sizes {
            return;
        }
        /// What `ldtilecfg` reads.
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (index, [rows, words]) in sizes.into_iter().enumerate() {
            if rows * words > 0 {
                config.rows[index] = rows as u8;
                config.row_bytes[index] = (WORD * words) as u16;
            }
        }
        // SAFETY: the caller answers for the instruction; the configuration is one that it takes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) }
    }

    /// For a block of sums of so many rows and columns, and so many words of the inner dimension: tiles 0 to 3 of sums, two of
    /// rows, two of columns.
    ///
    /// # Safety
    /// As of [`Self::configure`].
    unsafe fn configure_block(&self, rows: usize, columns: usize, depth: usize) {
        let [top, bottom] = [rows.min(SIDE), rows.saturating_sub(SIDE)];
        let [left, right] = [columns.min(SIDE), columns.saturating_sub(SIDE)];
        let sums = [[top, left], [top, right], [bottom, left], [bottom, right]];
        let factors = [[top, depth], [bottom, depth], [depth, left], [depth, right]];
        // SAFETY: the caller answers for it.
        unsafe {
            self.configure([sums[0], sums[1], sums[2], sums[3], factors[0], factors[1], factors[2], factors[3]]);
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if self.sizes.get() != [[0; 2]; 8] {
            // SAFETY: the tiles have been configured, so there are some.
            unsafe { asm!("tilerelease", options(nostack, nomem)) }
        }
    }
}

/// A block of sums, or what some of the inner dimension adds to them. Steps are from row to row, in bytes.
struct Block {
    a: *const u32,
    a_step: usize,
    b: *const u32,
    b_step: usize,
    c: *mut f32,
    c_step: usize,
    /// Pieces of the inner dimension.
    count: usize,
    add: bool,
}

/// Assembly for a block: its sums are loaded, or begin at 0; each piece of the inner dimension is loaded and multiplied; they
/// are stored.
macro_rules! block {
    ($block:expr, zero $($zero:literal)*, load $($load:literal)*, piece $($piece:literal)*, store $($store:literal)*) => {
        asm!(
            "test {add}, {add}",
            "jnz 2f",
            $($zero,)*
            "jmp 3f",
            "2:",
            $($load,)*
            "3:",
            $($piece,)*
            "add {a0}, 64",
            "add {a1}, 64",
            "add {b}, {b_piece}",
            "dec {count}",
            "jnz 3b",
            $($store,)*
            add = in(reg) usize::from($block.add),
            a0 = inout(reg) $block.a => _,
            a1 = inout(reg) $block.a.wrapping_byte_add(SIDE * $block.a_step) => _,
            a_step = in(reg) $block.a_step,
            b = inout(reg) $block.b => _,
            b_step = in(reg) $block.b_step,
            b_piece = in(reg) SIDE * $block.b_step,
            c0 = in(reg) $block.c,
            c1 = in(reg) $block.c.wrapping_byte_add(SIDE * $block.c_step),
            c_step = in(reg) $block.c_step,
            count = inout(reg) $block.count => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl Block {
    /// With one or two tiles down and along.
    ///
    /// # Safety
    /// As of [`multiply`]; the tiles must be configured for it.
    unsafe fn multiply(&self, two_down: bool, two_along: bool) {
        // SAFETY: tiles reach as far as they are configured for, which the caller answers for.
        unsafe {
            match (two_down, two_along) {
                (true, true) => block!(
                    self,
                    zero "tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3",
                    load "tileloadd tmm0, [{c0} + {c_step}]" "tileloadd tmm1, [{c0} + {c_step} + 64]"
                        "tileloadd tmm2, [{c1} + {c_step}]" "tileloadd tmm3, [{c1} + {c_step} + 64]",
                    piece "tileloadd tmm6, [{b} + {b_step}]" "tileloadd tmm4, [{a0} + {a_step}]" "tdpbf16ps tmm0, tmm4, tmm6"
                        "tileloadd tmm7, [{b} + {b_step} + 64]" "tdpbf16ps tmm1, tmm4, tmm7"
                        "tileloadd tmm5, [{a1} + {a_step}]" "tdpbf16ps tmm2, tmm5, tmm6" "tdpbf16ps tmm3, tmm5, tmm7",
                    store "tilestored [{c0} + {c_step}], tmm0" "tilestored [{c0} + {c_step} + 64], tmm1"
                        "tilestored [{c1} + {c_step}], tmm2" "tilestored [{c1} + {c_step} + 64], tmm3"
                ),
                (false, true) => block!(
                    self,
                    zero "tilezero tmm0" "tilezero tmm1",
                    load "tileloadd tmm0, [{c0} + {c_step}]" "tileloadd tmm1, [{c0} + {c_step} + 64]",
                    piece "tileloadd tmm4, [{a0} + {a_step}]" "tileloadd tmm6, [{b} + {b_step}]" "tdpbf16ps tmm0, tmm4, tmm6"
                        "tileloadd tmm7, [{b} + {b_step} + 64]" "tdpbf16ps tmm1, tmm4, tmm7",
                    store "tilestored [{c0} + {c_step}], tmm0" "tilestored [{c0} + {c_step} + 64], tmm1"
                        "# {c1}"
                ),
                (true, false) => block!(
                    self,
                    zero "tilezero tmm0" "tilezero tmm2",
                    load "tileloadd tmm0, [{c0} + {c_step}]" "tileloadd tmm2, [{c1} + {c_step}]",
                    piece "tileloadd tmm6, [{b} + {b_step}]" "tileloadd tmm4, [{a0} + {a_step}]" "tdpbf16ps tmm0, tmm4, tmm6"
                        "tileloadd tmm5, [{a1} + {a_step}]" "tdpbf16ps tmm2, tmm5, tmm6",
                    store "tilestored [{c0} + {c_step}], tmm0" "tilestored [{c1} + {c_step}], tmm2"
                ),
                (false, false) => block!(
                    self,
                    zero "tilezero tmm0",
                    load "tileloadd tmm0, [{c0} + {c_step}]",
                    piece "tileloadd tmm4, [{a0} + {a_step}]" "tileloadd tmm6, [{b} + {b_step}]" "tdpbf16ps tmm0, tmm4, tmm6",
                    store "tilestored [{c0} + {c_step}], tmm0" "# {c1}"
                ),
            }
        }
    }
}
