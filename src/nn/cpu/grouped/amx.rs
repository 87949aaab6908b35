//! Groups of 8 channels and more, multiplied with AMX (`cpu::amx` says what the instruction does): 16 positions of a line are a
//! tile's rows, a tap's kernels its columns.

use std::arch::asm;
use std::mem::MaybeUninit;

use super::{Gather, Line};
use crate::nn::cpu::amx::{SIDE, Tiles, WORD, is_there};

/// Tiles of sums at once.
const TILES: usize = 4;

/// Whether a line of these groups is gathered with tiles.
pub(super) fn takes(form: &Gather, line: &Line) -> bool {
    let [from, made] = form.channels;
    let whole = from.is_multiple_of(SIDE) || (SIDE / 4..SIDE).contains(&from);
    whole && made.is_multiple_of(SIDE) && !line.taps.is_empty() && is_there()
}

/// Where a tap's words begin, in bytes from those of the first position and of the first kernel.
#[repr(C)]
struct Tap {
    from: usize,
    kernel: usize,
}

/// As [`super::Grouped::gather`], where [`takes`] says so.
pub(super) fn gather_line(form: &Gather, line: &Line, frame: &[u32], kernels: &[u32], to: &mut [MaybeUninit<f32>]) {
    let [from_len, made] = form.channels;
    let (depth, tap_len) = (from_len.min(SIDE), form.tap_len());
    let pieces = line.taps.iter().flat_map(|&(place, tap)| (0..from_len).step_by(SIDE).map(move |word| (place, tap, word)));
    let taps: Vec<Tap> = pieces
        .map(|(place, tap, word)| Tap { from: WORD * (place + word), kernel: WORD * (tap * tap_len + word * made) })
        .collect();
    let tiles = Tiles::default();
    for start in (0..line.count).step_by(TILES * SIDE) {
        let positions = (line.count - start).min(TILES * SIDE);
        let (count, last) = (positions.div_ceil(SIDE), (positions - 1) % SIDE + 1);
        let sums: [usize; TILES] = std::array::from_fn(|tile| if tile + 1 < count { SIDE } else { last });
        let [a, b, c, d] = sums.map(|rows| [rows, SIDE]);
        // SAFETY: `takes` has found that there are tiles.
        unsafe { tiles.configure([a, b, c, d, [SIDE, depth], [last, depth], [depth, SIDE], [0, 0]]) };
        for group in 0..form.groups {
            let from = start * line.from_step + group * from_len;
            for first in (0..made).step_by(SIDE) {
                let kernel = group * form.area * tap_len + first;
                let place = line.to + start * line.to_step + group * made + first;
                let (frame, kernels, to) = (&frame[from..], &kernels[kernel..], &mut to[place..]);
                let block = Block {
                    taps: &taps,
                    from: frame.as_ptr(),
                    from_step: WORD * line.from_step,
                    kernels: kernels.as_ptr(),
                    kernel_step: WORD * made,
                    to: to.as_mut_ptr().cast(),
                    to_step: WORD * line.to_step,
                };
                block.assert_inside([frame.len(), kernels.len(), to.len()], positions, depth);
                // SAFETY: as above; the block lies within the slices, as the assertion has found.
                unsafe { block.gather(count) };
            }
        }
    }
}

/// Sums of some positions and 16 channels. Steps are from position to position, of kernels from word to word, in bytes.
struct Block<'a> {
    taps: &'a [Tap],
    from: *const u32,
    from_step: usize,
    kernels: *const u32,
    kernel_step: usize,
    to: *mut f32,
    to_step: usize,
}

/// Assembly for a block of some tiles: the sums begin at 0; every tap's kernels are loaded, and multiplied with its positions,
/// tile by tile; the sums are stored.
macro_rules! block {
    ($block:expr, zero $($zero:literal)*, tap $($tap:literal)*, store $($store:literal)*) => {
        asm!(
            $($zero,)*
            "2:",
            "mov {from}, [{taps}]",
            "mov {kernel}, [{taps} + 8]",
            "add {from}, {first}",
            "add {kernel}, {kernels}",
            "tileloadd tmm6, [{kernel} + {kernel_step}]",
            $($tap,)*
            "add {taps}, 16",
            "dec {count}",
            "jnz 2b",
            $($store,)*
            taps = inout(reg) $block.taps.as_ptr() => _,
            count = inout(reg) $block.taps.len() => _,
            from = out(reg) _,
            kernel = out(reg) _,
            first = in(reg) $block.from,
            from_step = in(reg) $block.from_step,
            from_tile = in(reg) SIDE * $block.from_step,
            kernels = in(reg) $block.kernels,
            kernel_step = in(reg) $block.kernel_step,
            to = inout(reg) $block.to => _,
            to_step = in(reg) $block.to_step,
            to_tile = in(reg) SIDE * $block.to_step,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
            options(nostack),
        )
    };
}

impl Block<'_> {
    /// That what is read and written is there: of so many words from the first position, of kernels, and of sums on.
    fn assert_inside(&self, [from, kernels, to]: [usize; 3], positions: usize, depth: usize) {
        let end = |step: usize, rows: usize, len: usize| (rows - 1) * (step / WORD) + len;
        for tap in self.taps {
            assert!(tap.from / WORD + end(self.from_step, positions, depth) <= from);
            assert!(tap.kernel / WORD + end(self.kernel_step, depth, SIDE) <= kernels);
        }
        assert!(end(self.to_step, positions, SIDE) <= to);
    }

    /// With so many tiles of sums.
    ///
    /// # Safety
    /// There must be tiles, configured for it, and all that is read and written.
    unsafe fn gather(&self, tiles: usize) {
        // SAFETY: the caller answers for it.
        unsafe {
            match tiles {
                1 => block!(
                    self,
                    zero "tilezero tmm0",
                    tap "tileloadd tmm5, [{from} + {from_step}]" "tdpbf16ps tmm0, tmm5, tmm6",
                    store "tilestored [{to} + {to_step}], tmm0" "# {from_tile} {to_tile}"
                ),
                2 => block!(
                    self,
                    zero "tilezero tmm0" "tilezero tmm1",
                    tap "tileloadd tmm4, [{from} + {from_step}]" "tdpbf16ps tmm0, tmm4, tmm6"
                        "add {from}, {from_tile}" "tileloadd tmm5, [{from} + {from_step}]" "tdpbf16ps tmm1, tmm5, tmm6",
                    store "tilestored [{to} + {to_step}], tmm0" "add {to}, {to_tile}" "tilestored [{to} + {to_step}], tmm1"
                ),
                3 => block!(
                    self,
                    zero "tilezero tmm0" "tilezero tmm1" "tilezero tmm2",
                    tap "tileloadd tmm4, [{from} + {from_step}]" "tdpbf16ps tmm0, tmm4, tmm6"
                        "add {from}, {from_tile}" "tileloadd tmm4, [{from} + {from_step}]" "tdpbf16ps tmm1, tmm4, tmm6"
                        "add {from}, {from_tile}" "tileloadd tmm5, [{from} + {from_step}]" "tdpbf16ps tmm2, tmm5, tmm6",
                    store "tilestored [{to} + {to_step}], tmm0" "add {to}, {to_tile}" "tilestored [{to} + {to_step}], tmm1"
                        "add {to}, {to_tile}" "tilestored [{to} + {to_step}], tmm2"
                ),
                _ => block!(
                    self,
                    zero "tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3",
                    tap "tileloadd tmm4, [{from} + {from_step}]" "tdpbf16ps tmm0, tmm4, tmm6"
                        "add {from}, {from_tile}" "tileloadd tmm4, [{from} + {from_step}]" "tdpbf16ps tmm1, tmm4, tmm6"
                        "add {from}, {from_tile}" "tileloadd tmm4, [{from} + {from_step}]" "tdpbf16ps tmm2, tmm4, tmm6"
                        "add {from}, {from_tile}" "tileloadd tmm5, [{from} + {from_step}]" "tdpbf16ps tmm3, tmm5, tmm6",
                    store "tilestored [{to} + {to_step}], tmm0" "add {to}, {to_tile}" "tilestored [{to} + {to_step}], tmm1"
                        "add {to}, {to_tile}" "tilestored [{to} + {to_step}], tmm2"
                        "add {to}, {to_tile}" "tilestored [{to} + {to_step}], tmm3"
                ),
            }
        }
    }
}
