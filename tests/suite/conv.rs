//! The CPU operations of our own against naive loops, finite differences, single precision and other numbers of threads.

use candle_core::{DType, Device, Tensor};
use ganforge::config::InitConfig;
use ganforge::nn::activation::Activation;
use ganforge::nn::conv;
use ganforge::nn::elementwise::{add_bias_activate, bias_grad, multiply, swap_axes};
use ganforge::nn::geometry::ConvWindow;
use ganforge::nn::in_place::InPlace;
use ganforge::nn::norm::{batch_norm, batch_norm_grad};
use ganforge::nn::precision::Precision;
use ganforge::nn::statistics::EPS;
use ganforge::nn::update::lerp;
use ganforge::nn::{LayerSpec, Network, Pass, Place, Role, Shape, Wanted};
use ganforge::random::{Purpose, Stream};
use proptest::prelude::*;
use serde_json::{Value, json};

/// `x [n, h, w, ci]` and kernels `[co, ci, k, k]` make `y [n, oh, ow, co]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub n: usize,
    pub ci: usize,
    pub co: usize,
    pub h: usize,
    pub w: usize,
    pub window: ConvWindow,
}

impl Case {
    pub fn x(self) -> [usize; 4] {
        [self.n, self.h, self.w, self.ci]
    }

    pub fn kernels(self) -> [usize; 4] {
        [self.co, self.ci / self.window.groups, self.window.kernel, self.window.kernel]
    }

    pub fn y(self) -> [usize; 4] {
        [self.n, self.window.output(self.h), self.window.output(self.w), self.co]
    }

    /// Every term of the sums: indices into x, kernels and y.
    fn terms(self, mut visit: impl FnMut(usize, usize, usize)) {
        let Self { ci, co, h, w, window: ConvWindow { kernel: k, stride, padding, groups }, .. } = self;
        let (inputs, outputs) = (ci / groups, co / groups);
        let [n, oh, ow, _] = self.y();
        let inside = |o: usize, tap: usize, size: usize| (o * stride + tap).checked_sub(padding).filter(|&at| at < size);
        for (image, out, oy, ox) in grid([n, co, oh, ow]) {
            for (_, channel, ky, kx) in grid([1, inputs, k, k]) {
                if let (Some(iy), Some(ix)) = (inside(oy, ky, h), inside(ox, kx, w)) {
                    visit(
                        ((image * h + iy) * w + ix) * ci + out / outputs * inputs + channel,
                        ((out * inputs + channel) * k + ky) * k + kx,
                        ((image * oh + oy) * ow + ox) * co + out,
                    );
                }
            }
        }
    }
}

fn grid([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |at| (at / (b * c * d), at / (c * d) % b, at / d % c, at % d))
}

/// Maps up to 13 × 13 that the kernel fits at least once; with strides above 1 the transposed form has output padding.
/// Some with so many channels that the form with fewer multiplications serves them, some in groups.
pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let any = (1usize..=7, 1usize..=3)
        .prop_flat_map(|(kernel, stride)| (0..=kernel).prop_map(move |padding| ConvWindow::new(kernel, stride, padding)));
    let narrow = (1usize..=9, 1usize..=7, 1usize..=7, any.clone());
    let halving = (3usize..=5, 0usize..=4).prop_map(|(kernel, padding)| ConvWindow::new(kernel, 2, padding));
    let wide = (1usize..=3, 32usize..=36, 32usize..=36, halving);
    let grouped = (1usize..=9, 2usize..=5, 1usize..=20, 1usize..=20, any)
        .prop_map(|(n, groups, inputs, outputs, window)| (n, groups * inputs, groups * outputs, window.in_groups(groups)));
    let depthwise = (1usize..=9, 2usize..=40, 1usize..=5, 1usize..=3, 0usize..=4)
        .prop_map(|(n, c, kernel, stride, padding)| (n, c, c, ConvWindow::new(kernel, stride, padding).in_groups(c)));
    (prop_oneof![2 => narrow, 1 => wide, 1 => grouped, 1 => depthwise], 1usize..=13, 1usize..=13)
        .prop_map(|((n, ci, co, window), h, w)| Case { n, ci, co, h, w, window })
        .prop_filter("the kernel must fit", |case| !case.y().contains(&0))
}

/// Uniform values in [-1, 1), different for each `number`.
pub(crate) fn uniform(number: u64, dims: &[usize]) -> Tensor {
    let mut values = vec![0.0; dims.iter().product()];
    Stream::at(1, Purpose::Latent, number).fill_uniform(-1.0, 1.0, &mut values);
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

fn conv(x: &Tensor, w: &Tensor, window: ConvWindow) -> candle_core::Result<Tensor> {
    conv::conv(x, w, window, Precision::F32)
}

fn conv_input_grad(dy: &Tensor, w: &Tensor, window: ConvWindow, size: (usize, usize)) -> candle_core::Result<Tensor> {
    conv::conv_input_grad(dy, w, window, size, Precision::F32)
}

fn conv_weight_grad(x: &Tensor, dy: &Tensor, window: ConvWindow) -> Tensor {
    conv::conv_weight_grad(x, dy, window, Precision::F32).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}

pub(crate) fn norm(x: &Tensor) -> f64 {
    dot(x, x).sqrt()
}

/// Largest difference, relative to the largest value.
fn difference(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
    // Written so that NaN counts.
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / scale).fold(0.0, |most, d| if d <= most { most } else { d })
}

/// The two operations, each of a tensor and kernels; both are linear in each.
#[derive(Debug, Clone, Copy)]
enum Op {
    Conv,
    Transposed,
}

impl Op {
    fn of(self, case: Case, a: &Tensor, w: &Tensor) -> Tensor {
        match self {
            Self::Conv => conv(a, w, case.window).unwrap(),
            Self::Transposed => conv_input_grad(a, w, case.window, (case.h, case.w)).unwrap(),
        }
    }

    /// From the gradient to the result to those to both arguments: members of the set again.
    fn gradients(self, case: Case, dy: &Tensor, a: &Tensor, w: &Tensor) -> [Tensor; 2] {
        match self {
            Self::Conv => [Self::Transposed.of(case, dy, w), conv_weight_grad(a, dy, case.window)],
            Self::Transposed => [Self::Conv.of(case, dy, w), conv_weight_grad(dy, a, case.window)],
        }
    }
}

/// Central differences along a random direction of everything and along some single coordinates, of the sum of the products of
/// the result with `weights`.
fn check_gradients(op: Op, case: Case, weights: &Tensor, a: &Tensor, w: &Tensor) -> Result<(), TestCaseError> {
    // Linear in each argument: differences are exact, however far the step.
    let evaluate = |a: &Tensor, w: &Tensor| dot(&op.of(case, a, w), weights);
    for (which, gradient) in op.gradients(case, weights, a, w).iter().enumerate() {
        let at = [a, w][which];
        prop_assert_eq!(gradient.dims(), at.dims());
        let count = at.elem_count();
        let single = |index: usize| {
            let mut values = vec![0.0; count];
            values[index] = 1.0;
            Tensor::from_vec(values, at.shape(), &Device::Cpu).unwrap()
        };
        let all = uniform(77, at.dims());
        for direction in [all, single(0), single(count / 2), single(count - 1)] {
            let moved = |factor: f64| {
                let there = (at + (&direction * factor).unwrap()).unwrap();
                if which == 0 { evaluate(&there, w) } else { evaluate(a, &there) }
            };
            let (expected, ours) = ((moved(1.0) - moved(-1.0)) / 2.0, dot(gradient, &direction));
            let scale = (norm(gradient) * norm(&direction)).max(1e-2);
            prop_assert!((expected - ours).abs() <= 1e-6 * scale, "argument {which}: {ours}, by differences {expected}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn convolution_and_its_transpose_are_the_naive_sums(case in cases()) {
        let (x, w, y) = (uniform(1, &case.x()), uniform(2, &case.kernels()), uniform(3, &case.y()));
        let (xs, ws, ys) = (values(&x), values(&w), values(&y));
        let (mut forward, mut transposed) = (vec![0.0; ys.len()], vec![0.0; xs.len()]);
        let mut to_w = vec![0.0; ws.len()];
        case.terms(|x, w, y| {
            forward[y] += xs[x] * ws[w];
            transposed[x] += ys[y] * ws[w];
            to_w[w] += xs[x] * ys[y];
        });
        let (op_x, op_y) = (conv(&x, &w, case.window).unwrap(), conv_input_grad(&y, &w, case.window, (case.h, case.w)).unwrap());
        prop_assert_eq!((op_x.dims(), op_y.dims()), (&case.y()[..], &case.x()[..]));
        prop_assert!(difference(&values(&op_x), &forward) < 1e-12);
        prop_assert!(difference(&values(&op_y), &transposed) < 1e-12);
        prop_assert!(difference(&values(&conv_weight_grad(&x, &y, case.window)), &to_w) < 1e-12);
    }

    #[test]
    fn gradients_of_convolutions_are_finite_differences(case in cases()) {
        let (x, w, y) = (uniform(1, &case.x()), uniform(2, &case.kernels()), uniform(3, &case.y()));
        check_gradients(Op::Conv, case, &uniform(4, &case.y()), &x, &w)?;
        check_gradients(Op::Transposed, case, &uniform(4, &case.x()), &y, &w)?;
    }

    #[test]
    fn convolutions_in_single_precision(case in cases()) {
        let run = |dtype: DType| {
            let typed = |number, dims: &[usize]| uniform(number, dims).to_dtype(dtype).unwrap();
            let (x, w, y) = (typed(1, &case.x()), typed(2, &case.kernels()), typed(3, &case.y()));
            convolutions(case, &x, &w, &y)
        };
        for (single, double) in run(DType::F32).iter().zip(run(DType::F64)) {
            prop_assert_eq!(single.dtype(), DType::F32);
            prop_assert!(difference(&values(single), &values(&double)) < 1e-4);
        }
    }
}

/// Both operations and the gradients of both.
fn convolutions(case: Case, x: &Tensor, w: &Tensor, y: &Tensor) -> Vec<Tensor> {
    let mut all = vec![Op::Conv.of(case, x, w), Op::Transposed.of(case, y, w)];
    all.extend(Op::Conv.gradients(case, y, x, w));
    all.extend(Op::Transposed.gradients(case, x, y, w));
    all
}

/// What `work` makes on 1, 2 and 5 threads must be the same bits.
pub(crate) fn assert_thread_independent(what: &str, work: impl Fn() -> Vec<Tensor> + Sync) {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let results = pool.install(&work);
        let bits = |t: &Tensor| values(t).into_iter().map(f64::to_bits).collect::<Vec<_>>();
        results.iter().map(bits).collect::<Vec<_>>()
    };
    let alone = on(1);
    assert!(alone.iter().flatten().any(|&bits| bits != 0));
    for threads in [2, 5] {
        assert_eq!(alone, on(threads), "{what} depends on the number of threads: {threads}");
    }
}

pub(crate) fn uniform_f32(number: u64, dims: &[usize]) -> Tensor {
    uniform(number, dims).to_dtype(DType::F32).unwrap()
}

#[test]
fn convolutions_do_not_depend_on_the_number_of_threads() {
    let window = |kernel, stride, padding| ConvWindow::new(kernel, stride, padding);
    let cases = [
        (1, 3, 8, 13, 9, window(4, 2, 1)),
        (9, 5, 7, 6, 6, window(3, 1, 1)),
        (40, 6, 5, 4, 4, window(4, 2, 1)),
        (100, 16, 9, 2, 3, window(2, 1, 0)),
        (33, 2, 4, 28, 28, window(5, 2, 2)),
        // Fewer multiplications: several groups of images, several sums of the weight gradient; kernels beyond a million values.
        (90, 33, 40, 8, 8, window(4, 2, 1)),
        (70, 40, 32, 9, 6, window(3, 2, 1)),
        (70, 40, 32, 9, 6, window(3, 1, 1)),
        (130, 180, 180, 4, 4, window(4, 2, 1)),
        // The kernel covers the map: a plain product.
        (17, 24, 3, 4, 4, window(4, 1, 0)),
        (64, 20, 50, 7, 7, window(7, 1, 0)),
        (3, 1, 1, 1, 1, window(1, 1, 0)),
        // Kernels of 1 on maps; groups, each with one channel or several.
        (40, 20, 30, 9, 9, window(1, 1, 0)),
        (40, 32, 48, 9, 7, window(3, 1, 1).in_groups(2)),
        (21, 40, 40, 8, 8, window(4, 2, 1).in_groups(40)),
        (21, 40, 40, 4, 4, window(4, 1, 0).in_groups(40)),
    ];
    for (n, ci, co, h, w, window) in cases {
        let case = Case { n, ci, co, h, w, window };
        assert_thread_independent(&format!("{case:?}"), || {
            convolutions(case, &uniform_f32(1, &case.x()), &uniform_f32(2, &case.kernels()), &uniform_f32(3, &case.y()))
        });
    }
}

/// However a batch is cut into groups, every image must come out as it does alone, and the weight gradient as their sum.
#[test]
fn convolutions_of_a_batch_are_those_of_its_images() {
    let window = |kernel| ConvWindow::new(kernel, 2, 1);
    for (n, ci, co, size, window) in [
        (70, 34, 40, 7, ConvWindow::new(3, 1, 1)),
        (80, 33, 40, 8, window(4)),
        (70, 180, 170, 4, window(4)),
        (70, 40, 32, 9, window(3)),
        (40, 3, 20, 16, window(4)),
        (70, 34, 33, 7, window(5)),
    ] {
        let case = Case { n, ci, co, h: size, w: size, window };
        let (x, w, y) = (uniform(1, &case.x()), uniform(2, &case.kernels()), uniform(3, &case.y()));
        let run =
            |x: &Tensor, y: &Tensor| [Op::Conv.of(case, x, &w), Op::Transposed.of(case, y, &w), conv_weight_grad(x, y, window)];
        let [forward, transposed, dw] = run(&x, &y);
        let alone = |image| {
            run(&x.narrow(0, image, 1).unwrap().contiguous().unwrap(), &y.narrow(0, image, 1).unwrap().contiguous().unwrap())
        };
        let mut sum = vec![0.0; dw.elem_count()];
        for image in 0..n {
            let [one, back, share] = alone(image);
            assert!(difference(&values(&forward.narrow(0, image, 1).unwrap()), &values(&one)) < 1e-12, "{case:?} {image}");
            assert!(difference(&values(&transposed.narrow(0, image, 1).unwrap()), &values(&back)) < 1e-12, "{case:?} {image}");
            sum.iter_mut().zip(values(&share)).for_each(|(sum, share)| *sum += share);
        }
        assert!(difference(&values(&dw), &sum) < 1e-11, "{case:?}");
    }
}

#[test]
fn convolutions_take_tensors_in_any_order_of_memory() {
    let case = Case { n: 3, ci: 2, co: 4, h: 5, w: 7, window: ConvWindow::new(3, 2, 1) };
    let (x, w, y) = (uniform(1, &case.x()), uniform(2, &case.kernels()), uniform(3, &case.y()));
    let turned = |t: &Tensor| t.transpose(0, 3).unwrap().contiguous().unwrap().transpose(0, 3).unwrap();
    assert!(!turned(&x).is_contiguous());
    let size = (case.h, case.w);
    let pairs = [
        (conv(&x, &w, case.window), conv(&turned(&x), &turned(&w), case.window)),
        (conv_input_grad(&y, &w, case.window, size), conv_input_grad(&turned(&y), &turned(&w), case.window, size)),
    ];
    for (straight, other) in pairs {
        assert_eq!(values(&straight.unwrap()), values(&other.unwrap()));
    }
}

#[test]
fn convolutions_of_the_wrong_shape_are_errors() {
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Device::Cpu).unwrap();
    let f = |dims: &[usize]| zeros(dims, DType::F32);
    let window = ConvWindow::new(3, 2, 1);
    let (x, w, y) = (f(&[2, 6, 6, 4]), f(&[5, 4, 3, 3]), f(&[2, 3, 3, 5]));
    assert_eq!(conv(&x, &w, window).unwrap().dims(), [2, 3, 3, 5]);
    assert_eq!(conv_input_grad(&y, &w, window, (6, 6)).unwrap().dims(), [2, 6, 6, 4]);

    assert!(conv(&x, &f(&[5, 3, 3, 3]), window).is_err());
    assert!(conv_input_grad(&y, &f(&[4, 4, 3, 3]), window, (6, 6)).is_err());
    let kernels: [&[usize]; 5] = [&[5, 4, 3, 2], &[5, 4, 4, 4], &[5, 4, 3], &[0, 4, 3, 3], &[5, 4, 3, 3, 1]];
    for wrong in kernels {
        assert!(conv(&x, &f(wrong), window).is_err(), "{wrong:?}");
        assert!(conv_input_grad(&y, &f(wrong), window, (6, 6)).is_err(), "{wrong:?}");
    }
    let inputs: [&[usize]; 5] = [&[2, 6, 6, 3], &[4, 6, 6], &[0, 6, 6, 4], &[2, 0, 6, 4], &[2, 6, 6, 0]];
    for wrong in inputs {
        assert!(conv(&f(wrong), &w, window).is_err(), "{wrong:?}");
    }
    let gradients: [&[usize]; 5] = [&[2, 3, 3, 4], &[2, 3, 4, 5], &[5, 3, 3], &[0, 3, 3, 5], &[2, 0, 3, 5]];
    for wrong in gradients {
        assert!(conv_input_grad(&f(wrong), &w, window, (6, 6)).is_err(), "{wrong:?}");
    }
    // 5 and 6 are the sizes that this stride maps to 3.
    for wrong in [(4, 6), (6, 7), (0, 6), (6, 0), (1, 1)] {
        assert!(conv_input_grad(&y, &w, window, wrong).is_err(), "{wrong:?}");
    }
    for wrong in [ConvWindow { stride: 0, ..window }, ConvWindow { kernel: 0, ..window }, ConvWindow::new(7, 1, 0)] {
        let kernels = f(&[5, 4, wrong.kernel, wrong.kernel]);
        assert!(conv(&x, &kernels, wrong).is_err(), "{wrong:?}");
        assert!(conv_input_grad(&y, &kernels, wrong, (6, 6)).is_err(), "{wrong:?}");
    }
    for (a, b) in [(DType::F32, DType::F64), (DType::F64, DType::F32), (DType::U32, DType::U32), (DType::F16, DType::F16)] {
        assert!(conv(&zeros(x.dims(), a), &zeros(w.dims(), b), window).is_err(), "{a:?} {b:?}");
        assert!(conv_input_grad(&zeros(y.dims(), a), &zeros(w.dims(), b), window, (6, 6)).is_err(), "{a:?} {b:?}");
    }
}

/// `[n, c]` or `[n, h, w, c]` with more than three values a channel.
fn batches() -> impl Strategy<Value = Vec<usize>> {
    let flat = (4usize..=40, 1usize..=9).prop_map(|(n, c)| vec![n, c]);
    let maps = (1usize..=9, 2usize..=8, 2usize..=8, 1usize..=7).prop_map(|(n, h, w, c)| vec![n, h, w, c]);
    prop_oneof![flat, maps]
}

fn activations() -> impl Strategy<Value = Activation> {
    let rectifier = (0.0..1.0).prop_map(|slope| Activation::Rectifier { slope });
    let relu = Activation::Rectifier { slope: 0.0 };
    prop_oneof![Just(Activation::None), Just(relu), rectifier, Just(Activation::Tanh), Just(Activation::Sigmoid)]
}

fn naive(act: Activation, x: f64) -> f64 {
    match act {
        Activation::None => x,
        Activation::Rectifier { slope } => x.max(slope * x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// The definition, value by value: `y`, the argument of the activation, and the statistics.
fn naive_batch_norm(x: &Tensor, weight: &[f64], bias: &[f64], act: Activation) -> [Vec<f64>; 4] {
    let c = weight.len();
    let xs = values(x);
    let count = (xs.len() / c) as f64;
    let (mut mean, mut var) = (vec![0.0; c], vec![0.0; c]);
    xs.iter().enumerate().for_each(|(at, x)| mean[at % c] += x / count);
    xs.iter().enumerate().for_each(|(at, x)| var[at % c] += (x - mean[at % c]).powi(2) / count);
    let z = |(at, x): (usize, &f64)| {
        let k = at % c;
        (x - mean[k]) / (var[k] + EPS).sqrt() * weight[k] + bias[k]
    };
    let z: Vec<f64> = xs.iter().enumerate().map(z).collect();
    let y = z.iter().map(|&z| naive(act, z)).collect();
    [y, z, mean, var]
}

/// The gradients of `Σ y · weights` to x, weight and bias.
fn batch_norm_gradients(x: &Tensor, w: &Tensor, b: &Tensor, act: Activation, weights: &Tensor) -> [Tensor; 3] {
    let made = batch_norm(x, w, b, act).unwrap();
    let gradients = batch_norm_grad(x, w, &made, act, weights.copy().unwrap()).unwrap();
    [gradients.x, gradients.weight, gradients.bias]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn batch_norm_is_its_formula(dims in batches(), act in activations(), offset in -3.0..3.0f64) {
        let c = [*dims.last().unwrap()];
        let (x, w, b) = ((uniform(1, &dims) + offset).unwrap(), uniform(2, &c), uniform(3, &c));
        let [y, _, mean, var] = naive_batch_norm(&x, &values(&w), &values(&b), act);
        for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 1e-4)] {
            let typed = |t: &Tensor| t.to_dtype(dtype).unwrap();
            let ours = batch_norm(&typed(&x), &typed(&w), &typed(&b), act).unwrap();
            prop_assert_eq!(ours.y.dims(), &dims[..]);
            prop_assert!(difference(&values(&ours.y), &y) < tolerance);
            prop_assert!(difference(&values(&ours.mean), &mean) < tolerance);
            prop_assert!(difference(&values(&ours.var), &var) < tolerance);
        }
    }

    #[test]
    fn gradients_of_batch_norm_are_finite_differences(dims in batches(), act in activations()) {
        let c = [*dims.last().unwrap()];
        let arguments = [uniform(1, &dims), uniform(2, &c), uniform(3, &c)];
        let [x, w, b] = &arguments;
        let [_, z, _, var] = naive_batch_norm(x, &values(w), &values(b), act);
        // Differences mean nothing across the rectifier's kink, nor where a channel hardly varies.
        prop_assume!(z.iter().all(|z| z.abs() > 1e-3) || !matches!(act, Activation::Rectifier { .. }));
        prop_assume!(var.iter().all(|var| *var > 0.05));
        let weights = uniform(4, &dims);
        let gradients = batch_norm_gradients(x, w, b, act, &weights);
        for (which, gradient) in gradients.iter().enumerate() {
            let direction = uniform(5, arguments[which].dims());
            let at = |factor: f64| {
                let moved = (&arguments[which] + (&direction * factor).unwrap()).unwrap();
                let [x, w, b] = std::array::from_fn(|i| if i == which { moved.clone() } else { arguments[i].clone() });
                dot(&batch_norm(&x, &w, &b, act).unwrap().y, &weights)
            };
            let expected = (at(2e-6) - at(-2e-6)) / 4e-6;
            let scale = (norm(gradient) * norm(&direction)).max(1e-2);
            let ours = dot(gradient, &direction);
            prop_assert!((expected - ours).abs() <= 1e-6 * scale, "argument {which}: {ours}, by differences {expected}");
        }
    }

    #[test]
    fn activations_with_bias_and_their_gradients(dims in batches(), act in activations(), with_bias in any::<bool>()) {
        let c = *dims.last().unwrap();
        let (x, bias, weights) = (uniform(1, &dims), uniform(2, &[c]), uniform(3, &dims));
        let shift = values(&bias);
        let z: Vec<f64> = values(&x).iter().enumerate().map(|(i, x)| if with_bias { x + shift[i % c] } else { *x }).collect();
        add_bias_activate(InPlace::of(&x), with_bias.then_some(&bias), act).unwrap();
        let expected: Vec<f64> = z.iter().map(|&z| naive(act, z)).collect();
        prop_assert!(difference(&values(&x), &expected) < 1e-14);

        let dy = weights.copy().unwrap();
        act.grad(&x, InPlace::of(&dy)).unwrap();
        let slope = |z: f64| match act {
            Activation::Rectifier { slope } => if z > 0.0 { 1.0 } else { slope },
            _ => (naive(act, z + 1e-6) - naive(act, z - 1e-6)) / 2e-6,
        };
        let expected: Vec<f64> = values(&weights).iter().zip(&z).map(|(g, &z)| g * slope(z)).collect();
        prop_assert!(difference(&values(&dy), &expected) < 1e-8);

        let mut sums = vec![0.0; c];
        values(&weights).iter().enumerate().for_each(|(i, g)| sums[i % c] += g);
        prop_assert!(difference(&values(&bias_grad(&weights).unwrap()), &sums) < 1e-12);
        let product: Vec<f64> = values(&dy).iter().zip(values(&weights)).map(|(a, b)| a * b).collect();
        multiply(InPlace::of(&dy), &weights).unwrap();
        prop_assert_eq!(values(&dy), product);
    }

    #[test]
    fn axes_are_swapped(n in 1usize..5, a in 1usize..40, b in 1usize..40) {
        let x = uniform(1, &[n, a, b]);
        let swapped = swap_axes(&x).unwrap();
        prop_assert_eq!(swapped.dims(), &[n, b, a]);
        prop_assert_eq!(values(&swapped), values(&x.transpose(1, 2).unwrap()));
    }
}

#[test]
fn single_precision_activations_are_close_everywhere() {
    let x: Vec<f32> =
        (-4000..=4000).map(|i| i as f32 * 0.005).chain([-1e30, -100.0, 100.0, 1e30, 1e-30, f32::INFINITY]).collect();
    for act in [Activation::Tanh, Activation::Sigmoid, Activation::Rectifier { slope: 0.2 }] {
        let tensor = Tensor::new(&x[..], &Device::Cpu).unwrap();
        act.apply(InPlace::of(&tensor)).unwrap();
        for (&x, y) in x.iter().zip(values(&tensor)) {
            let expected = naive(act, f64::from(x));
            assert!(
                (y - expected).abs() <= 3e-7 * expected.abs().max(1e-3) || y == expected,
                "{act:?}({x}) = {y}, not {expected}"
            );
        }
    }
    let nan = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
    Activation::Tanh.apply(InPlace::of(&nan)).unwrap();
    assert!(values(&nan)[0].is_nan());
}

#[test]
fn batch_norm_does_not_depend_on_the_number_of_threads() {
    let shapes: [&[usize]; 6] = [&[1, 40, 41, 3], &[9, 5, 6, 7], &[64, 28, 28, 3], &[33, 300], &[3, 1], &[5, 13, 11, 130]];
    for dims in shapes {
        for act in [Activation::None, Activation::Rectifier { slope: 0.2 }, Activation::Tanh] {
            assert_thread_independent(&format!("{dims:?} {act:?}"), || {
                let c = [*dims.last().unwrap()];
                let (x, w, b) = (uniform_f32(1, dims), uniform_f32(2, &c), uniform_f32(3, &c));
                let made = batch_norm(&x, &w, &b, act).unwrap();
                let gradients = batch_norm_gradients(&x, &w, &b, act, &uniform_f32(4, dims));
                [made.y, made.mean, made.var].into_iter().chain(gradients).chain([bias_grad(&x).unwrap()]).collect()
            });
        }
    }
}

#[test]
fn batch_norm_of_one_value_is_its_offset() {
    let (x, w, b) = (uniform(1, &[1, 3]), uniform(2, &[3]), uniform(3, &[3]));
    let made = batch_norm(&x, &w, &b, Activation::None).unwrap();
    assert_eq!(values(&made.y), values(&b));
    assert_eq!(values(&made.var), [0.0; 3]);
}

#[test]
fn operations_on_the_wrong_shape_are_errors() {
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Device::Cpu).unwrap();
    let f = |dims: &[usize]| zeros(dims, DType::F32);
    let run = |x: &Tensor, w: &Tensor, b: &Tensor| batch_norm(x, w, b, Activation::None);
    assert!(run(&f(&[2, 4, 4, 3]), &f(&[3]), &f(&[3])).is_ok());
    let shapes: [&[usize]; 7] = [&[6], &[2, 4, 3], &[2, 4, 4, 4], &[0, 3], &[2, 0, 4, 3], &[2, 0], &[2, 4, 4, 1, 3]];
    for x in shapes {
        assert!(run(&f(x), &f(&[3]), &f(&[3])).is_err(), "{x:?}");
    }
    for (w, b) in [(2, 3), (3, 2), (4, 4), (0, 0), (0, 3)] {
        assert!(run(&f(&[2, 4, 4, 3]), &f(&[w]), &f(&[b])).is_err(), "{w} {b}");
    }
    let x = f(&[2, 3]);
    assert!(run(&x, &zeros(&[3], DType::F64), &f(&[3])).is_err());
    assert!(run(&zeros(&[2, 3], DType::U8), &zeros(&[3], DType::U8), &zeros(&[3], DType::U8)).is_err());
    let made = run(&x, &f(&[3]), &f(&[3])).unwrap();
    assert!(batch_norm_grad(&x, &f(&[3]), &made, Activation::None, f(&[2, 4])).is_err());
    assert!(add_bias_activate(InPlace::of(&x), Some(&f(&[2])), Activation::None).is_err());
    assert!(Activation::Tanh.grad(&x, InPlace::of(&f(&[2, 4]))).is_err());
    assert!(multiply(InPlace::of(&x), &f(&[4])).is_err());
}

/// What is changed in place must not be an argument, too: it would wait for itself.
#[test]
fn operations_refuse_operands_that_share_their_memory() {
    let x = uniform(1, &[4, 6]);
    let other_shape = x.reshape((6, 4)).unwrap();
    assert!(multiply(InPlace::of(&x), &x).is_err() && multiply(InPlace::of(&x), &other_shape).is_err());
    assert!(Activation::Tanh.grad(&x, InPlace::of(&x)).is_err());
    assert!(lerp(&[(InPlace::of(&x), &x)], 0.5, 0.5).is_err());
    assert!(add_bias_activate(InPlace::of(&x), Some(&x.get(0).unwrap()), Activation::None).is_err());
    let (w, b) = (uniform(2, &[6]), uniform(3, &[6]));
    let made = batch_norm(&x, &w, &b, Activation::None).unwrap();
    assert!(batch_norm_grad(&x, &w, &made, Activation::None, x.clone()).is_err());
    assert!(batch_norm_grad(&x, &w, &made, Activation::None, made.y.clone()).is_err());
    assert!(batch_norm_grad(&x, &w, &made, Activation::None, x.copy().unwrap()).is_ok());
}

#[test]
fn nothing_in_nothing_out() {
    let empty = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(swap_axes(&empty(&[2, 0, 5])).unwrap().dims(), [2, 5, 0]);
    add_bias_activate(InPlace::of(&empty(&[3, 0])), Some(&empty(&[0])), Activation::Tanh).unwrap();
    assert_eq!(bias_grad(&empty(&[3, 0])).unwrap().dims(), [0]);
    multiply(InPlace::of(&empty(&[0, 3])), &empty(&[0, 3])).unwrap();
}

/// A convolution is built together with the mean of squares behind it, or with the doubling of the map before it: that is what both
/// make of values and gradients one after the other.
#[test]
fn convolutions_with_a_resampled_map_are_both_layers() {
    let cases = [
        (3, 1, [6, 4], true, [2, 3]),
        (3, 1, [5, 7], false, [2, 3]),
        // More channels than a task has, by im2col: Winograd has no form for kernels of 6.
        (5, 2, [4, 5], false, [70, 67]),
        (1, 0, [4, 3], false, [2, 3]),
        (5, 2, [4, 5], false, [2, 3]),
        (2, 1, [3, 4], false, [2, 3]),
        (4, 0, [6, 8], false, [2, 3]),
    ];
    for (kernel, padding, [height, width], spectral, [channels, out]) in cases {
        let conv = json!({"conv": {"out": out, "kernel": kernel, "padding": padding, "spectral": spectral}});
        for layers in [[json!({"upsample": "nearest"}), conv.clone()], [conv.clone(), json!({"downsample": "average"})]] {
            let what = format!("{height}×{width} {layers:?}");
            let build = |layers: &[Value], input: Shape| {
                let specs: Vec<LayerSpec> = serde_json::from_value(json!(layers)).unwrap();
                Network::new(&specs, input, &InitConfig::default(), Role::Critic, 7, &Place::cpu(DType::F64)).unwrap()
            };
            let input = Shape::Map { channels, height, width };
            let both = build(&layers, input);
            let first = build(&layers[..1], input);
            let second = build(&layers[1..], first.output());
            assert_eq!(both.output(), second.output(), "{what}");
            for parameter in first.parameters().chain(second.parameters()) {
                let (_, name) = parameter.name.split_once('.').unwrap();
                let own = both.parameters().find(|own| own.name.ends_with(name)).unwrap();
                parameter.var.set(own.var.as_tensor()).unwrap();
            }

            let pass = Pass::Train { seed: 0, number: 0 };
            let x = uniform(1, &[3, height, width, channels]);
            let (y, trace) = both.forward_traced(&x, pass).unwrap();
            let (between, of_first) = first.forward_traced(&x, pass).unwrap();
            let (expected, of_second) = second.forward_traced(&between, pass).unwrap();
            assert_eq!(y.dims(), expected.dims(), "{what}");
            assert!(difference(&values(&y), &values(&expected)) < 1e-12, "{what}");

            let dy = uniform(2, y.dims());
            let again = |network: &Network, x: &Tensor| network.forward_traced(x, Pass::Eval).unwrap().1;
            let parameters = |network: &Network, trace, dy: &Tensor| {
                network.backward(trace, dy.copy().unwrap(), Wanted::Parameters).unwrap()
            };
            let to_between = second.backward(again(&second, &between), dy.copy().unwrap(), Wanted::Input).unwrap().remove(0);
            let to_x = first.backward(again(&first, &x), to_between.copy().unwrap(), Wanted::Input).unwrap();
            let ours = both.backward(again(&both, &x), dy.copy().unwrap(), Wanted::Input).unwrap();
            assert!(difference(&values(&ours[0]), &values(&to_x[0])) < 1e-12, "{what}");
            let expected = [parameters(&first, of_first, &to_between), parameters(&second, of_second, &dy)].concat();
            let ours = parameters(&both, trace, &dy);
            assert_eq!((ours.len(), expected.len()), (2, 2), "{what}");
            for (ours, expected) in ours.iter().zip(&expected) {
                assert_eq!(ours.dims(), expected.dims(), "{what}");
                assert!(difference(&values(ours), &values(expected)) < 1e-12, "{what}");
            }
        }
    }
}
