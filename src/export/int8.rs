//! Generators in fewer bits: calibrated, tried layer by layer, and written only if that costs little.

use std::collections::BTreeSet;
use std::path::Path;

use super::calibrate::{self, Method, Seen};
use super::cost::{self, RealReference};
use super::equalise::equalise;
use super::integer::{IntegerNetwork, Values};
use super::quantise::{Recipe, fits, quantise};
use super::{Dtype, batch_on_cpu, contract_of, model, passes, verify};
use crate::contract::{self, Contract, Cost, Layout};
use crate::error::{Error, Result};
use crate::eval::FeatureModel;
use crate::files;
use crate::image::Images;
use crate::infer::{Generator, Options, Provider};
use crate::nn::graph::Graph;
use crate::progress::Progress;
use crate::train::Trained;

/// Latents that calibration looks at where nobody asks for another number.
pub const CALIBRATE: usize = 512;
/// The loss that is borne where nobody asks for another.
pub const MAX_LOSS: f64 = 0.02;
/// The least PSNR, in decibels, at that loss.
pub const LEAST_PSNR: f64 = 36.0;
/// How much of the channels' ranges is moved into kernels. Of 0, ¼, ½, ¾ and 1 this gave `faces` the highest PSNR.
const EQUAL: f32 = 0.5;

/// How a generator is reduced, and what that may cost.
pub struct Reduction<'a> {
    /// Latents that calibration looks at.
    pub calibrate: usize,
    /// How much larger the Fréchet distance may become, as a part of it. The mean square error of pixels may be in the same
    /// measure what it is at [`LEAST_PSNR`] with [`MAX_LOSS`].
    pub max_loss: f64,
    /// What turns images into features.
    pub features: &'a FeatureModel,
    /// Real images; without them the f32 generator's own images take their place.
    pub real: Option<&'a RealReference>,
}

/// A linear operation in int8.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LayerReport {
    /// Its kind and channels.
    pub name: String,
    /// The PSNR in decibels if it alone is in int8; none where it does not fit in whole numbers.
    pub psnr: Option<f64>,
    /// Whether it stayed in f32.
    pub kept: bool,
}

/// What was written, and what it costs.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ReductionReport {
    /// How ranges were laid over the values seen; none where there are none.
    pub method: Option<&'static str>,
    /// The PSNR in decibels of each method.
    pub methods: Vec<(&'static str, f64)>,
    /// All linear operations, in their order.
    pub layers: Vec<LayerReport>,
    /// The largest difference of onnxruntime's pixels and the exact ones in whole numbers; none where a layer stayed in f32.
    pub from_exact: Option<u8>,
    /// What the file says of its own cost.
    pub cost: Cost,
}

impl ReductionReport {
    /// All of it but the cost, for a person to read.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(method) = self.method {
            let all: Vec<String> = self.methods.iter().map(|(name, psnr)| format!("{name} {psnr:.1} dB")).collect();
            lines.push(format!("calibration: {method} ({})", all.join(", ")));
        }
        for (number, LayerReport { name, psnr, kept }) in (1..).zip(&self.layers) {
            let form = if *kept { "f32" } else { "int8" };
            lines.push(format!("linear layer {number}, {name}: {form} ({})", told(*psnr)));
        }
        let unfit = self.layers.iter().filter(|layer| layer.psnr.is_none()).count();
        if unfit > 0 {
            let all = self.layers.len();
            lines.push(format!(
                "{unfit} of {all} linear layers have no form in int8, and what goes in and out of them is converted: compare the file's size \
                 and `gan-infer bench FILE` with f32's before you take it for smaller and faster"
            ));
        }
        if let Some(furthest) = self.from_exact {
            lines.push(format!("onnxruntime's pixels and exact ones in whole numbers: {furthest} apart at most"));
        }
        lines
    }
}

fn told(psnr: Option<f64>) -> String {
    match psnr {
        Some(psnr) => format!("in int8 alone {psnr:.1} dB"),
        None => "int8 has no form for channels in groups, nor for so long sums, such a stride or padding".to_string(),
    }
}

/// Exports a trained generator in fewer bits. Nothing is written if that costs more than it may.
///
/// # Errors
/// As [`super::export`]; and when the file costs more than [`Reduction::max_loss`].
pub fn export_reduced(
    trained: &Trained,
    layout: Layout,
    dtype: Dtype,
    how: &Reduction,
    path: &Path,
    progress: &dyn Progress,
) -> Result<ReductionReport> {
    check(how, dtype)?;
    files::check_writable(path)?;
    let graph = passes::optimise(trained.generator.graph()?);
    let contract = Contract { batch: batch_on_cpu(&graph, trained.generator.input()), ..contract_of(trained, layout) };
    let mut encoded = model::encode(&graph, &contract, Dtype::F32);
    contract::seal(&mut encoded.file);
    verify::verify(&trained.generator, &contract, Dtype::F32, &encoded)?;
    let exact = open("the generator in f32", encoded.file)?;
    let mut report =
        ReductionReport { method: None, methods: Vec::new(), layers: Vec::new(), from_exact: None, cost: Cost::default() };
    let compare = |form: &Form| -> Result<Cost> {
        progress.say(&format!("{} images of it and of f32, compared", cost::COMPARED));
        let reduced = open("the exported file", sealed(form.encode(&contract)))?;
        Ok(cost::measure(&exact, &reduced, &contract, how.features, how.real)?.rounded())
    };
    let form = match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::W8 => {
            let form = Form::Graph(&graph, dtype);
            report.cost = compare(&form)?;
            form
        }
        Dtype::Int8 => {
            let images = exact.sample(contract.seed, cost::COMPARED as u64, cost::part(&exact))?;
            progress.say(&format!("calibrating with {} latents", how.calibrate));
            let ranges = calibrate::ranges(&model::encode_traced(&graph, &contract), &contract, how.calibrate)?;
            let trial = Trial { exact: &exact, graph: &equalise(&graph, &ranges, EQUAL), contract: &contract, images };
            let mut choice = trial.choose(how, &mut report, progress)?;
            loop {
                let network = trial.quantised(&choice.seen, choice.method, &choice.kept)?;
                report.from_exact = if network.is_exact() { Some(trial.difference_to_exact(&network)?) } else { None };
                let form = Form::Whole(network);
                report.cost = compare(&form)?;
                if judge(&report.cost, how.max_loss).is_ok() || !choice.keep_one_more(&mut report.layers) {
                    break form;
                }
                progress.say(&format!("{}: that is too much, so one more layer stays in f32", report.cost));
            }
        }
    };
    judge(&report.cost, how.max_loss)?;
    // Maps of whole numbers are a quarter as large.
    let batch = if report.from_exact.is_some() { None } else { contract.batch };
    let told = Contract { cost: Some(report.cost.clone()), batch, ..contract };
    let file = sealed(form.encode(&told));
    verify::check_promises(&file, &told)?;
    files::write_atomic(path, &file)?;
    Ok(report)
}

/// What is to be written.
enum Form<'a> {
    /// The graph, with weights of this type.
    Graph(&'a Graph, Dtype),
    /// The graph in whole numbers.
    Whole(IntegerNetwork),
}

impl Form<'_> {
    fn encode(&self, contract: &Contract) -> Vec<u8> {
        match self {
            Self::Graph(graph, dtype) => model::encode(graph, contract, *dtype).file,
            Self::Whole(network) => model::encode_integer(network, contract),
        }
    }
}

fn check(how: &Reduction, dtype: Dtype) -> Result<()> {
    if matches!(dtype, Dtype::F32 | Dtype::F16) {
        return Err(Error::usage(
            "a reduction that measures no loss",
            "Use `export`, or reduce to `Dtype::Int8` or `Dtype::W8`.",
        ));
    }
    if !(1..=1 << 20).contains(&how.calibrate) {
        let what = format!("`Reduction::calibrate` {} latents", how.calibrate);
        return Err(Error::usage(what, "Choose a number from 1 to 1048576; 512 are enough."));
    }
    if !(how.max_loss > 0.0 && how.max_loss <= 1.0) {
        return Err(Error::usage(
            format!("`Reduction::max_loss` {} is not above 0 and up to 1", how.max_loss),
            "By default it is 0.02.",
        ));
    }
    Ok(())
}

fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    contract::seal(&mut file);
    file
}

/// A generator whose calls stay on their thread, for the cost is measured on all cores at once.
fn open(name: &str, file: Vec<u8>) -> Result<Generator> {
    Generator::from_bytes(name, file, &Options::default().provider(Provider::Cpu).threads(1))
}

/// The least PSNR that a loss allows.
fn least_psnr(max_loss: f64) -> f64 {
    LEAST_PSNR - 10.0 * (max_loss / MAX_LOSS).log10()
}

fn judge(cost: &Cost, max_loss: f64) -> Result<()> {
    let least = least_psnr(max_loss);
    // Written so that NaN fails.
    if cost.psnr >= least && cost.loss() <= max_loss {
        return Ok(());
    }
    Err(Error::Verification(format!(
        "it costs too much: {cost}; at most {:.1} % and at least {least:.1} dB are borne. Bear more (`Reduction::max_loss`), or export in f32.",
        100.0 * max_loss
    )))
}

/// What forms of a generator are compared with.
struct Trial<'a> {
    exact: &'a Generator,
    graph: &'a Graph,
    contract: &'a Contract,
    /// Of f32.
    images: Images,
}

impl Trial<'_> {
    /// The best calibration; and of layers in f32, the worst first, as few as the PSNR asks for.
    fn choose(&self, how: &Reduction, report: &mut ReductionReport, progress: &dyn Progress) -> Result<Choice> {
        let linear: Vec<usize> =
            (0..self.graph.nodes.len()).filter(|&place| self.graph.nodes[place].op.linear_name().is_some()).collect();
        let kept: BTreeSet<usize> = linear.iter().copied().filter(|&place| !fits(&self.graph.nodes[place].op)).collect();
        if kept.len() == linear.len() {
            let what =
                "it has no linear layer that int8 is for: there is none, or their sums, strides or paddings are too large.";
            return Err(Error::Verification(format!("{what} Export it in f32.")));
        }
        let seen = calibrate::observe(&model::encode_traced(self.graph, self.contract), self.contract, how.calibrate)?;
        let mut choice = Choice { seen, method: Method::MinMax, linear, kept };
        let mut psnr = f64::NEG_INFINITY;
        for other in Method::ALL {
            let reached = tenths(self.psnr(&self.quantised(&choice.seen, other, &choice.kept)?)?);
            report.methods.push((other.name(), reached));
            if reached > psnr {
                (choice.method, psnr) = (other, reached);
            }
        }
        report.method = Some(choice.method.name());
        progress.begin("trying the layers in int8, one by one", choice.linear.len() as u64);
        let layers = (1..).zip(&choice.linear).map(|(done, &place)| {
            let name = self.graph.nodes[place].op.linear_name().unwrap_or_default();
            let kept = choice.kept.contains(&place);
            let psnr = if kept { None } else { Some(tenths(self.psnr_of_one(&choice, place)?)) };
            progress.update(done, &name);
            Ok(LayerReport { name, psnr, kept })
        });
        let layers = layers.collect::<Result<Vec<_>>>();
        progress.end();
        report.layers = layers?;
        while psnr < least_psnr(how.max_loss) + MARGIN {
            if !choice.keep_one_more(&mut report.layers) {
                let what = format!("int8 costs too much in every layer of it: {}", layers_text(&report.layers));
                return Err(Error::Verification(format!("{what}. Bear more (`Reduction::max_loss`), or export in f32.")));
            }
            progress.say(&format!("{psnr:.1} dB is too little, so one more layer stays in f32"));
            psnr = tenths(self.psnr(&self.quantised(&choice.seen, choice.method, &choice.kept)?)?);
        }
        Ok(choice)
    }

    /// The PSNR with one linear operation in int8.
    fn psnr_of_one(&self, choice: &Choice, one: usize) -> Result<f64> {
        let others = choice.linear.iter().copied().filter(|&other| other != one).collect();
        self.psnr(&self.quantised(&choice.seen, choice.method, &others)?)
    }

    fn quantised(&self, seen: &Seen, method: Method, real: &BTreeSet<usize>) -> Result<IntegerNetwork> {
        let Contract { latent, range, layout, .. } = *self.contract;
        quantise(self.graph, latent.size, &Recipe { seen, method, real, range, layout })
    }

    fn generator(&self, network: &IntegerNetwork) -> Result<Generator> {
        open("the graph in int8", sealed(model::encode_integer(network, self.contract)))
    }

    fn psnr(&self, network: &IntegerNetwork) -> Result<f64> {
        cost::psnr_to(&self.images, &self.generator(network)?, self.contract.seed, cost::COMPARED as u64)
    }

    /// How far onnxruntime's pixels are from the exact ones; refused if more than 1.
    fn difference_to_exact(&self, network: &IntegerNetwork) -> Result<u8> {
        const IMAGES: usize = 3;
        let generator = self.generator(network)?;
        let made = generator.sample(self.contract.seed, 0, IMAGES)?;
        let latents = self.contract.latent.rows(self.contract.seed, 0, IMAGES);
        let mut furthest = 0;
        for (index, latent) in latents.chunks_exact(self.contract.latent.size).enumerate() {
            let exact = pixels(network, network.evaluate(latent)?, self.exact);
            let made = made.get(index).unwrap_or_default();
            let differences = exact.iter().zip(made).map(|(a, b)| a.abs_diff(*b));
            let far = if exact.len() == made.len() { differences.max().unwrap_or(0) } else { u8::MAX };
            furthest = furthest.max(far);
        }
        if furthest > 1 {
            return Err(Error::Verification(format!(
                "onnxruntime's pixels of the graph in int8 are up to {furthest} from those of its exact evaluation in whole numbers. \
                 Please report this."
            )));
        }
        Ok(furthest)
    }
}

/// How a graph is quantised, of what was tried.
struct Choice {
    seen: Seen,
    method: Method,
    /// The places of linear operations.
    linear: Vec<usize>,
    /// Those of them that stay in f32.
    kept: BTreeSet<usize>,
}

impl Choice {
    /// Leaves another layer in f32, the one that costs most alone; not the last that is in int8.
    fn keep_one_more(&mut self, layers: &mut [LayerReport]) -> bool {
        let whole = self.linear.iter().zip(layers).filter(|(_, layer)| !layer.kept);
        let mut whole: Vec<(f64, usize, &mut LayerReport)> =
            whole.map(|(&place, layer)| (layer.psnr.unwrap_or(f64::INFINITY), place, layer)).collect();
        whole.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let [(_, place, worst), _, ..] = whole.as_mut_slice() {
            self.kept.insert(*place);
            worst.kept = true;
            return true;
        }
        false
    }
}

/// What is kept in hand between the trial's images and all.
const MARGIN: f64 = 0.3;

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// An image's pixels, channels last.
fn pixels(network: &IntegerNetwork, values: Values, exact: &Generator) -> Vec<u8> {
    let [height, width, channels] = exact.image_shape();
    let is_map = matches!(network.output_shape, crate::nn::shape::Shape::Map { .. });
    let ordered = |at: usize| if is_map { at } else { at % channels * height * width + at / channels };
    match values {
        Values::U8(values) => (0..values.len()).map(|at| values[ordered(at)]).collect(),
        // Real values have their channels first.
        Values::Real(values) => {
            let range = exact.range();
            let place = |at: usize| at % channels * height * width + at / channels;
            (0..values.len()).filter_map(|at| range.map(|range| range.pixel(values[place(at)]))).collect()
        }
    }
}

/// Layers and what each costs, in a line.
fn layers_text(layers: &[LayerReport]) -> String {
    let layers = layers.iter().map(|LayerReport { name, psnr, .. }| format!("{name}: {}", told(*psnr)));
    layers.collect::<Vec<_>>().join(", ")
}
