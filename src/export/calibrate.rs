//! Which values a network's activations take: seen in onnxruntime over deterministic latents, and how a range of 256 steps is laid
//! over them.

use std::collections::BTreeMap;

use ort::session::Session;
use rayon::prelude::*;

use super::equalise::Ranges;
use super::integer::{Scale, single};
use super::model::Traced;
use crate::contract::Contract;
use crate::error::{Error, OrtResult, Result};
use crate::infer::model::Model;
use crate::infer::provider::{Provider, SessionOptions};
use crate::nn::graph::{Op, Value};
use crate::nn::shape::Shape;
use crate::random::Purpose;

/// Bins over the range of a value.
const BINS: usize = 4096;
/// Images a run, at most.
const BATCH: usize = 32;
/// Values of a run, of all layers, at most. How many there are must not depend on the machine: f32 sums depend on the batch.
const VALUES: usize = 1 << 25;

/// How a range is laid over the values that were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// From the least to the largest.
    MinMax,
    /// So that at most one of 10,000 lies beyond it at either end.
    Percentile,
    /// So that the mean square error is least, of the values behind the activation that follows.
    MeanSquare,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MinMax, Self::Percentile, Self::MeanSquare];

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::MinMax => "min-max",
            Self::Percentile => "percentile",
            Self::MeanSquare => "mean-square",
        }
    }
}

/// How often a value fell where.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    low: f32,
    high: f32,
    counts: Vec<u64>,
    /// The mean of each channel.
    pub means: Vec<f64>,
}

/// A histogram for each value that an operation makes, and for the input.
pub(super) type Seen = BTreeMap<Value, Histogram>;

/// Runs `n` latents through the f32 graph, twice; they are none that an image is made of.
pub(super) fn observe(traced: &Traced, contract: &Contract, n: usize) -> Result<Seen> {
    let widest = |a: [f32; 2], b: [f32; 2]| [a[0].min(b[0]), a[1].max(b[1])];
    let bounds = look_at(traced, contract, n, |_, values| bounds(values), widest)?;
    let mut seen = Seen::new();
    for (value, [low, high]) in bounds {
        if !(low.is_finite() && high.is_finite()) {
            let what = "a layer makes NaN or infinity: int8 has neither. If training diverged, export an earlier checkpoint.";
            return Err(Error::Verification(what.to_string()));
        }
        seen.insert(value, Histogram { low, high, counts: vec![0; BINS], means: Vec::new() });
    }
    let count = |value, values: &[f32]| {
        let counts = seen.get(&value).map(|histogram| histogram.count(values)).unwrap_or_default();
        let add = |sum, values: &[f32]| values.iter().fold(sum, |sum, &value| sum + f64::from(value));
        (counts, by_channel(traced, value, values, 0.0, add))
    };
    let add = |a: (Vec<u64>, Vec<f64>), b: (Vec<u64>, Vec<f64>)| {
        let counts = a.0.iter().zip(&b.0).map(|(a, b)| a + b).collect();
        (counts, a.1.iter().zip(&b.1).map(|(a, b)| a + b).collect())
    };
    for (value, (counts, sums)) in look_at(traced, contract, n, count, add)? {
        let of_channel = counts.iter().sum::<u64>() as f64 / sums.len().max(1) as f64;
        let means = sums.iter().map(|sum| sum / of_channel).collect();
        seen.entry(value).and_modify(|histogram| (histogram.counts, histogram.means) = (counts, means));
    }
    Ok(seen)
}

/// The largest of the absolute values that each channel takes, over `n` latents.
pub(super) fn ranges(traced: &Traced, contract: &Contract, n: usize) -> Result<Ranges> {
    let largest = |value, values: &[f32]| {
        by_channel(traced, value, values, 0.0, |most: f32, values| {
            values.iter().fold(most, |most, value| most.max(value.abs()))
        })
    };
    let larger = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(a, b)| a.max(*b)).collect();
    look_at(traced, contract, n, largest, larger)
}

/// What `add` makes of all values of each channel.
fn by_channel<T: Copy>(traced: &Traced, value: Value, values: &[f32], none: T, add: impl Fn(T, &[f32]) -> T) -> Vec<T> {
    let shape = traced.shapes.get(&value).copied().unwrap_or(Shape::Flat(1));
    let channels = shape.channels().max(1);
    let mut all = vec![none; channels];
    for image in values.chunks_exact(shape.elements().max(1)) {
        for (all, values) in all.iter_mut().zip(image.chunks_exact((shape.elements() / channels).max(1))) {
            *all = add(*all, values);
        }
    }
    all
}

/// The least and the largest of some values and 0; infinite where one of them is no number.
fn bounds(values: &[f32]) -> [f32; 2] {
    if !values.iter().all(|value| value.is_finite()) {
        return [f32::NEG_INFINITY, f32::INFINITY];
    }
    values.iter().fold([0.0, 0.0], |[low, high], &value| [low.min(value), high.max(value)])
}

/// What `look` says of every value in each batch, joined in any order: `join` may depend on it by the last bits of an f64 at most.
fn look_at<T: Send>(
    traced: &Traced,
    contract: &Contract,
    n: usize,
    look: impl Fn(Value, &[f32]) -> T + Sync,
    join: impl Fn(T, T) -> T + Sync,
) -> Result<BTreeMap<Value, T>> {
    let model = Model::in_memory("the graph in f32", traced.file.clone())?;
    let open = || model.session(Provider::Cpu, SessionOptions::default());
    let size = contract.latent.size;
    let batch = (VALUES / traced.elements.max(1)).clamp(1, BATCH);
    let run = |session: &mut Result<Session>, first: usize| -> Result<BTreeMap<Value, T>> {
        let session = session.as_mut().map_err(|e| Error::Ort(e.to_string()))?;
        let rows = batch.min(n - first);
        let mut latents = vec![0.0; rows * size];
        for (index, row) in (first..).zip(latents.chunks_mut(size)) {
            contract.latent.fill(contract.seed, Purpose::Evaluation, index as u64, row);
        }
        let input = ort::value::Tensor::from_array(([rows, size], latents)).ort()?;
        let outputs = session.run(ort::inputs![input]).ort()?;
        let values = traced.values.iter();
        let told =
            values.map(|(&value, name)| Ok((value, look(value, outputs[name.as_str()].try_extract_tensor::<f32>().ort()?.1))));
        told.collect()
    };
    let join_all = |mut all: BTreeMap<Value, T>, others: BTreeMap<Value, T>| {
        for (value, other) in others {
            let joined = match all.remove(&value) {
                Some(one) => join(one, other),
                None => other,
            };
            all.insert(value, joined);
        }
        Ok(all)
    };
    let batches: Vec<usize> = (0..n).step_by(batch).collect();
    batches.into_par_iter().map_init(open, run).try_reduce(BTreeMap::new, join_all)
}

impl Histogram {
    /// How often values fall into each of its bins.
    fn count(&self, values: &[f32]) -> Vec<u64> {
        let mut counts = vec![0; BINS];
        values.iter().for_each(|&value| counts[self.bin(value)] += 1);
        counts
    }

    fn bin(&self, value: f32) -> usize {
        (((value - self.low) / (self.high - self.low) * BINS as f32) as usize).min(BINS - 1)
    }

    /// The value in the middle of a bin.
    fn middle(&self, bin: usize) -> f32 {
        self.low + (self.high - self.low) * (bin as f32 + 0.5) / BINS as f32
    }

    /// A scale for the values, behind which `follows` comes.
    pub fn scale(&self, method: Method, follows: Option<&Op>) -> Scale {
        match method {
            Method::MinMax => spread(self.low, self.high),
            Method::Percentile => {
                const OUTSIDE: f64 = 1e-4;
                let all: u64 = self.counts.iter().sum();
                let most = (all as f64 * OUTSIDE) as u64;
                // The end of the negative values, and that of the positive ones: 0 always lies between them.
                let low = self.end(0..BINS, most).map_or(self.low, |bin| self.middle(bin));
                let high = self.end((0..BINS).rev(), most).map_or(self.high, |bin| self.middle(bin));
                spread(low.min(0.0), high.max(0.0))
            }
            Method::MeanSquare => {
                let ends = |end: f32| (0..32).map(move |step| end * 0.93f32.powi(step)).take(if end == 0.0 { 1 } else { 32 });
                let ranges: Vec<[f32; 2]> =
                    ends(self.low).flat_map(|low| ends(self.high).map(move |high| [low, high])).collect();
                let errors = ranges.into_par_iter().map(|[low, high]| {
                    let scale = spread(low, high);
                    (self.error(scale, follows), scale)
                });
                errors.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(spread(self.low, self.high), |(_, scale)| scale)
            }
        }
    }

    /// The first of some bins with which more than `most` values were passed.
    fn end(&self, mut bins: impl Iterator<Item = usize>, most: u64) -> Option<usize> {
        let mut passed = 0;
        bins.find(|&bin| {
            passed += self.counts[bin];
            passed > most
        })
    }

    fn error(&self, scale: Scale, follows: Option<&Op>) -> f64 {
        let made = |value: f32| follows.and_then(|op| single(op, value)).unwrap_or(value);
        let bins = self.counts.iter().enumerate().filter(|&(_, &count)| count > 0);
        bins.map(|(bin, &count)| {
            let value = self.middle(bin);
            let rounded = scale.real(scale.quantise(value));
            f64::from(made(value) - made(rounded)).powi(2) * count as f64
        })
        .sum()
    }
}

/// 256 steps from `low`, at most 0, to `high`, at least 0; 0 is one of them. Of the step's size 6 bits count, rounded up: the last bits
/// of f32 sums, which differ from processor to processor, seldom make another file.
fn spread(low: f32, high: f32) -> Scale {
    /// Of values that are all 0.
    const LEAST: f32 = 1e-20;
    let step = ((high - low) / 255.0).max(LEAST);
    let bits = step.to_bits();
    const COARSE: u32 = 1 << 17;
    let scale = f32::from_bits((bits + COARSE - 1) & !(COARSE - 1));
    Scale { scale, zero: (-low / scale).round().clamp(0.0, 255.0) as u8 }
}
