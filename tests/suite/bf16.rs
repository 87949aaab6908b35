//! Products in bf16 on the CPU: against an emulation in plain Rust and against f64; on a CPU without the instructions, the error.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use ganforge::config::InitConfig;
use ganforge::nn::conv::{conv, conv_input_grad, conv_weight_grad};
use ganforge::nn::device::{check_precision, has_amx};
use ganforge::nn::geometry::ConvWindow;
use ganforge::nn::precision::Precision;
use ganforge::nn::{LayerSpec, Network, Pass, Place, Role, Shape, Wanted};
use ganforge::random::{Purpose, Stream};
use ganforge::train::{RunFolder, Trained, Which, load_trained};
use proptest::prelude::*;
use serde_json::json;

use crate::conv::{Case, assert_thread_independent, cases, norm, uniform, uniform_f32, values};

/// Whether this CPU has the instructions; says so where it has not.
pub(crate) fn is_there() -> bool {
    let there = check_precision(&Device::Cpu, Precision::Bf16).is_ok();
    if !there {
        eprintln!("skipped: this CPU has no AVX512-BF16");
    }
    there
}

#[test]
fn a_cpu_without_bf16_says_what_it_lacks() {
    #[cfg(target_arch = "x86_64")]
    let has = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    match check_precision(&Device::Cpu, Precision::Bf16) {
        Ok(()) => assert!(has),
        Err(error) => {
            assert!(!has);
            let told = error.to_string();
            assert!(told.contains("precision bf16 on this CPU, which lacks avx512"), "{told}");
        }
    }
    let told = check_precision(&Device::Cpu, Precision::Tf32).unwrap_err().to_string();
    assert!(told.contains(if has { "which computes in f32 or bf16. " } else { "which computes in f32. " }), "{told}");
}

/// To the nearest bf16, of two equally near to the even one; what is below the normal numbers is 0.
fn rounded(x: f32) -> f32 {
    match x.classify() {
        std::num::FpCategory::Subnormal => 0.0f32.copysign(x),
        std::num::FpCategory::Nan => x,
        _ => {
            let bits = x.to_bits();
            f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
        }
    }
}

/// A number as the instruction takes and gives it.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// Whether products of so many columns, with so many values in a sum, are made with tiles.
fn is_tiled(values: usize, columns: usize) -> bool {
    values.div_ceil(2) >= 8 && columns >= 16 && has_amx()
}

/// `Σ a·b`: pair by pair, of each pair the second product first; with tiles, of every 16 pairs the first products and the
/// second ones apart, then both sums together.
fn emulated(products: impl Iterator<Item = (f32, f32)>, tiled: bool) -> f32 {
    let products: Vec<_> = products.collect();
    // bf16 products are exact in f32, but for those below its normal numbers.
    let plus = |sum: f32, (a, b): (f32, f32)| flushed(rounded(a).mul_add(rounded(b), sum));
    let mut sum = 0.0f32;
    if tiled {
        for tile in products.chunks(32) {
            let [first, second] = [0, 1].map(|at| tile.iter().skip(at).step_by(2).fold(0.0, |sum, &pair| plus(sum, pair)));
            sum = flushed(sum + flushed(first + second));
        }
        return sum;
    }
    for pair in products.chunks(2) {
        sum = plus(plus(sum, pair.get(1).copied().unwrap_or_default()), pair[0]);
    }
    sum
}

/// Numbers of many magnitudes, some of them 0, some below the normal numbers.
fn numbers(number: u64, len: usize) -> Vec<f32> {
    let mut stream = Stream::at(2, Purpose::Latent, number);
    let each = |_| {
        let bits = u64::from(stream.bits()) << 32 | u64::from(stream.bits());
        let exponent = match bits >> 52 & 63 {
            0 => 0,
            1 => 40,
            _ => 120 + (bits >> 40 & 15) as u32,
        };
        let value = f32::from_bits((bits as u32 & 0x807f_ffff) | exponent << 23);
        if bits >> 58 == 5 { 0.0 } else { value }
    };
    (0..len).map(each).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Holds all three products of a linear layer, which is nothing else, against their emulation.
fn assert_emulated(n: usize, k: usize, m: usize) {
    let (x, w, dy) = (numbers(1, n * k), numbers(2, m * k), numbers(3, n * m));
    let tensor = |values: &[f32], dims: [usize; 4]| Tensor::from_slice(values, &dims, &Device::Cpu).unwrap();
    let (tx, tw, ty) = (tensor(&x, [n, 1, 1, k]), tensor(&w, [m, k, 1, 1]), tensor(&dy, [n, 1, 1, m]));
    let got = |result: Result<Tensor>| result.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let of = |rows: usize, columns: usize, sum: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        (0..rows * columns).map(|at| sum(at / columns, at % columns)).collect()
    };
    let forward = of(n, m, &|i, j| emulated((0..k).map(|p| (x[i * k + p], w[j * k + p])), is_tiled(k, m)));
    let ours = got(conv(&tx, &tw, ConvWindow::POINT, Precision::Bf16));
    assert!(bits(&ours) == bits(&forward), "forward, {n} × {k} × {m}");
    let to_x = of(n, k, &|i, j| emulated((0..m).map(|p| (dy[i * m + p], w[p * k + j])), is_tiled(m, k)));
    let ours = got(conv_input_grad(&ty, &tw, ConvWindow::POINT, (1, 1), Precision::Bf16));
    assert!(bits(&ours) == bits(&to_x), "to the input, {n} × {k} × {m}");
    let to_w = of(m, k, &|i, j| emulated((0..n).map(|p| (dy[p * m + i], x[p * k + j])), is_tiled(n, k)));
    let ours = got(conv_weight_grad(&tx, &ty, ConvWindow::POINT, Precision::Bf16));
    assert!(bits(&ours) == bits(&to_w), "to the kernels, {n} × {k} × {m}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn products_are_their_emulation(n in 1usize..80, k in 1usize..140, m in 1usize..140) {
        if is_there() {
            assert_emulated(n, k, m);
        }
    }
}

/// Products that are cut in pieces of rows, of the inner dimension, or of both.
#[test]
fn large_products_are_their_emulation() {
    if !is_there() {
        return;
    }
    for [n, k, m] in [[545, 1100, 20], [1060, 17, 530], [33, 2100, 40], [20, 33, 1070]] {
        assert_emulated(n, k, m);
    }
}

/// Tiles take most of the work from the instructions that other CPUs multiply with: these tests once more, without them.
#[test]
fn without_tiles_all_of_this_holds_too() {
    if !has_amx() {
        return;
    }
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["bf16", "--skip", "without_tiles_all_of_this_holds_too", "--skip", "killed_ten_times"])
        .env("GANFORGE_NO_AMX", "1")
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
}

/// Rounding must not carry what is not a number over into another one, whatever its bits.
#[test]
fn what_is_not_a_number_stays_so_in_bf16() {
    if !is_there() {
        return;
    }
    for bits in [0x7fff_ffff, 0xffff_ffff, 0x7f80_0001, 0x7fc0_0000] {
        for window in [ConvWindow::POINT, ConvWindow::new(4, 2, 1)] {
            let case = Case { n: 3, ci: 32, co: 34, h: 4, w: 4, window };
            let [x, w, y] = [case.x(), case.kernels(), case.y()].map(|dims| {
                let mut numbers = vec![1.0; dims.iter().product()];
                numbers[0] = f32::from_bits(bits);
                Tensor::from_vec(numbers, &dims[..], &Device::Cpu).unwrap()
            });
            for result in three(case, [&x, &w, &y], Precision::Bf16) {
                assert!(values(&result).iter().any(|value| value.is_nan()), "{bits:x}");
            }
        }
    }
}

fn three(case: Case, [x, w, y]: [&Tensor; 3], precision: Precision) -> Vec<Tensor> {
    vec![
        conv(x, w, case.window, precision).unwrap(),
        conv_input_grad(y, w, case.window, (case.h, case.w), precision).unwrap(),
        conv_weight_grad(x, y, case.window, precision).unwrap(),
    ]
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let exact = b.to_dtype(DType::F64).unwrap();
    norm(&(a.to_dtype(DType::F64).unwrap() - &exact).unwrap()) / norm(&exact).max(1e-9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// bf16 has 8 bits of mantissa, so either factor is off by u = 2⁻⁸ of itself at most and a product by 2u + u²: so much of the sizes of a
    /// result's terms together. The form with fewer multiplications has terms of its own that cancel, but all of them at their worst at
    /// once do not come.
    #[test]
    fn convolutions_in_bf16_are_near_those_in_f64(case in cases()) {
        if !is_there() {
            return Ok(());
        }
        let exact = [uniform(1, &case.x()), uniform(2, &case.kernels()), uniform(3, &case.y())];
        let single = exact.each_ref().map(|t| t.to_dtype(DType::F32).unwrap());
        let rounded = three(case, single.each_ref(), Precision::Bf16);
        let magnitudes = exact.each_ref().map(|t| t.abs().unwrap());
        let terms = three(case, magnitudes.each_ref(), Precision::F32);
        for ((ours, exact), terms) in rounded.iter().zip(three(case, exact.each_ref(), Precision::F32)).zip(terms) {
            prop_assert_eq!(ours.dims(), exact.dims());
            let error = norm(&(ours.to_dtype(DType::F64).unwrap() - &exact).unwrap());
            let (unit, in_f32) = (2f64.powi(-8), 1e-5);
            let most = (2.0 * unit + unit * unit + in_f32) * norm(&terms).max(1e-3);
            prop_assert!(error <= most, "{error} of at most {most}");
        }
    }
}

#[test]
fn convolutions_in_bf16_do_not_depend_on_the_number_of_threads() {
    if !is_there() {
        return;
    }
    let window = |kernel, stride, padding| ConvWindow::new(kernel, stride, padding);
    let cases = [
        (1, 3, 8, 13, 9, window(4, 2, 1)),
        (41, 6, 5, 4, 4, window(4, 2, 1)),
        (33, 3, 4, 28, 28, window(5, 2, 2)),
        // Channels that do not fill pairs.
        (91, 33, 41, 8, 8, window(4, 2, 1)),
        // Fewer multiplications, an odd number of images, several groups and sums.
        (91, 34, 42, 8, 8, window(4, 2, 1)),
        (71, 40, 32, 9, 6, window(3, 2, 1)),
        (71, 40, 32, 9, 6, window(3, 1, 1)),
        (131, 180, 180, 4, 4, window(4, 2, 1)),
        // Kernels whose gradient is one sum where there are tiles, in two groups of images.
        (531, 192, 176, 4, 4, window(4, 2, 1)),
        // A plain product.
        (17, 24, 3, 4, 4, window(4, 1, 0)),
        // Groups of one tile and of several, lines of one to five; a stride of 2, and one of 3 that leaves lines without taps.
        (5, 32, 32, 7, 71, window(3, 1, 1).in_groups(2)),
        (3, 64, 128, 5, 40, window(3, 2, 1).in_groups(2)),
        (3, 16, 64, 5, 6, window(2, 3, 1).in_groups(2)),
        // Groups, of one register and more, and an odd number of positions; depthwise, which stays in f32.
        (19, 32, 32, 9, 7, window(3, 1, 1).in_groups(2)),
        (9, 36, 72, 6, 6, window(3, 2, 1).in_groups(2)),
        (9, 8, 4, 5, 5, window(5, 1, 0).in_groups(2)),
        (9, 24, 24, 6, 6, window(4, 2, 1).in_groups(24)),
    ];
    for (n, ci, co, h, w, window) in cases {
        let case = Case { n, ci, co, h, w, window };
        let operands = [uniform_f32(1, &case.x()), uniform_f32(2, &case.kernels()), uniform_f32(3, &case.y())];
        assert_thread_independent(&format!("{case:?}"), || three(case, operands.each_ref(), Precision::Bf16));
        for (ours, exact) in
            three(case, operands.each_ref(), Precision::Bf16).iter().zip(three(case, operands.each_ref(), Precision::F32))
        {
            assert!(distance(ours, &exact) < 0.01, "{case:?}");
            assert!(values(ours).iter().any(|value| *value != 0.0));
        }
    }
}

/// Kernels `[co, ci, 3, 3]` as `nn::resample` widens them: `[co, ci, 4, 4]` of halved maps, `[ci, co, 4, 4]` of doubled ones.
fn widened(kernels: &Tensor, doubled: bool) -> Tensor {
    let (co, ci, ..) = kernels.dims4().unwrap();
    let from = kernels.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let taps = |to: usize| {
        let end = if doubled { 4 - to } else { to + 1 };
        end.saturating_sub(2)..end.min(3)
    };
    let wide = |first: usize, second: usize, y: usize, x: usize| {
        let [o, i] = if doubled { [second, first] } else { [first, second] };
        let row = |row: usize| taps(x).map(|column| from[(o * ci + i) * 9 + row * 3 + column]).fold(0.0, |a, b| a + b);
        taps(y).map(row).fold(0.0, |a, b| a + b) * if doubled { 1.0 } else { 0.25 }
    };
    let dims = if doubled { [ci, co] } else { [co, ci] };
    let places = (0..dims[0] * dims[1] * 16).map(|at| wide(at / 16 / dims[1], at / 16 % dims[1], at % 16 / 4, at % 4));
    Tensor::from_vec(places.collect::<Vec<_>>(), (dims[0], dims[1], 4, 4), &Device::Cpu).unwrap()
}

/// And gradients back.
fn gathered(wide: &Tensor, doubled: bool) -> Tensor {
    let (first, second, ..) = wide.dims4().unwrap();
    let from = wide.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let [co, ci] = if doubled { [second, first] } else { [first, second] };
    let narrow = |o: usize, i: usize, y: usize, x: usize| {
        let kernel = if doubled { i * co + o } else { o * ci + i };
        let [top, left] = if doubled { [2 - y, 2 - x] } else { [y, x] };
        let row = |row: usize| from[kernel * 16 + row * 4 + left] + from[kernel * 16 + row * 4 + left + 1];
        (row(top) + row(top + 1)) * if doubled { 1.0 } else { 0.25 }
    };
    let places = (0..co * ci * 9).map(|at| narrow(at / 9 / ci, at / 9 % ci, at % 9 / 3, at % 3));
    Tensor::from_vec(places.collect::<Vec<_>>(), (co, ci, 3, 3), &Device::Cpu).unwrap()
}

/// Rows of kernels are widened while they are packed: to the same bits as if they had been before.
#[test]
fn kernels_widened_on_the_way_are_those_widened_before() {
    if !is_there() {
        return;
    }
    let place = Place { device: Device::Cpu, dtype: DType::F32, precision: Precision::Bf16 };
    let window = ConvWindow::new(4, 2, 1);
    for (doubled, [ci, co], [height, width]) in [
        (false, [17, 65], [4, 6]),
        (false, [70, 3], [6, 4]),
        (true, [65, 17], [2, 3]),
        (true, [3, 70], [3, 2]),
        (true, [34, 36], [5, 5]),
    ] {
        let kernels = json!({"conv": {"out": co, "kernel": 3, "padding": 1, "bias": false}});
        let layers =
            if doubled { [json!({"upsample": "nearest"}), kernels] } else { [kernels, json!({"downsample": "average"})] };
        let specs: Vec<LayerSpec> = serde_json::from_value(json!(layers)).unwrap();
        let input = Shape::Map { channels: ci, height, width };
        let network = Network::new(&specs, input, &InitConfig::default(), Role::Critic, 7, &place).unwrap();
        let weight = network.parameters().next().unwrap().var.as_tensor().clone();
        let x = uniform_f32(1, &[5, height, width, ci]);
        let (y, trace) = network.forward_traced(&x, Pass::Train { seed: 0, number: 0 }).unwrap();
        let dy = uniform_f32(2, y.dims());
        let dw = network.backward(trace, dy.copy().unwrap(), Wanted::Parameters).unwrap().remove(0);
        let again = network.forward_traced(&x, Pass::Eval).unwrap().1;
        let dx = network.backward(again, dy.copy().unwrap(), Wanted::Input).unwrap().remove(0);

        let (wide, bf16) = (widened(&weight, doubled), Precision::Bf16);
        let [expected_y, expected_dx, wide_dw] = match doubled {
            false => [
                conv(&x, &wide, window, bf16),
                conv_input_grad(&dy, &wide, window, (height, width), bf16),
                conv_weight_grad(&x, &dy, window, bf16),
            ],
            true => [
                conv_input_grad(&x, &wide, window, (2 * height, 2 * width), bf16),
                conv(&dy, &wide, window, bf16),
                conv_weight_grad(&dy, &x, window, bf16),
            ],
        }
        .map(Result::unwrap);
        let flat = |tensor: &Tensor| bits(&tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let what = format!("{ci} to {co}, doubled: {doubled}");
        assert_eq!(flat(&y), flat(&expected_y), "{what}");
        assert_eq!(flat(&dx), flat(&expected_dx), "{what}");
        assert_eq!(flat(&dw), flat(&gathered(&wide_dw, doubled)), "{what}");
    }
}

#[test]
fn f64_is_exact_whatever_the_precision() {
    let case = Case { n: 3, ci: 33, co: 34, h: 8, w: 8, window: ConvWindow::new(4, 2, 1) };
    let operands = [uniform(1, &case.x()), uniform(2, &case.kernels()), uniform(3, &case.y())];
    let [plain, asked] = [Precision::F32, Precision::Bf16].map(|precision| three(case, operands.each_ref(), precision));
    assert!(plain.iter().zip(&asked).all(|(a, b)| values(a) == values(b)));
}

/// The layers of a trained network from one on up to another, with its weights.
fn part_of(trained: &Trained, range: std::ops::Range<usize>, input: Shape) -> Network {
    let (layers, init) = (&trained.config.generator.layers[range.clone()], &trained.config.init);
    let part = Network::new(layers, input, init, Role::Generator, 0, &Place::cpu(DType::F32)).unwrap();
    let mut tensors = BTreeMap::new();
    for parameter in trained.generator.parameters() {
        let (index, rest) = parameter.name.split_once('.').unwrap();
        let index: usize = index.parse().unwrap();
        if range.contains(&index) {
            tensors.insert(format!("{:02}.{rest}", index - range.start), parameter.var.as_tensor().clone());
        }
    }
    part.load(&tensors, "a part").unwrap();
    part
}

fn map_of(values: &Tensor) -> Shape {
    match *values.dims() {
        [_, height, width, channels] => Shape::Map { channels, height, width },
        _ => Shape::Flat(values.dims()[1]),
    }
}

const TRAINING: Pass = Pass::Train { seed: 0, number: 0 };

/// Fewer channels than the form with fewer multiplications asks for: im2col takes the pieces.
const FEW_CHANNELS: usize = 16;

/// What `piece(first, len)` gives of so many channels, in this dimension of the result.
fn by_pieces(channels: usize, dim: usize, piece: impl Fn(usize, usize) -> Tensor) -> Tensor {
    let pieces: Vec<_> =
        (0..channels).step_by(FEW_CHANNELS).map(|first| piece(first, FEW_CHANNELS.min(channels - first))).collect();
    Tensor::cat(&pieces, dim).unwrap()
}

/// The built-in faces, layer by layer: what latents become on their way, and the gradients of ½ Σ(image − another image)² on theirs
/// back. The form with fewer multiplications, F(2, 2) along both axes, has two to three times the error that bf16 has anyway, below half
/// a percent, and is taken in bf16, too, wherever it is in f32; F(4, 2) would have four to eight times (benches/RESULTS.md) and is not.
#[test]
fn on_real_activations_the_fast_form_in_bf16_errs_below_four_times_as_much_as_im2col() {
    if !is_there() || has_amx() {
        // With tiles there is no fast form; `without_tiles_all_of_this_holds_too` comes here without them.
        return;
    }
    let run = RunFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/faces")).unwrap();
    let trained = load_trained(&run, None, Which::Best).unwrap();
    let (whole, layers) = (&trained.generator, &trained.config.generator.layers);
    let mut stream = Stream::at(1, Purpose::Latent, 0);
    let mut latents = vec![0.0; 32 * 100];
    stream.fill_normal(0.0, 1.0, &mut latents);
    let z = Tensor::from_vec(latents, (32, 100), &Device::Cpu).unwrap();
    let images = whole.forward(&z, TRAINING).unwrap();
    let others = Tensor::cat(&[images.narrow(0, 16, 16).unwrap(), images.narrow(0, 0, 16).unwrap()], 0).unwrap();
    let at_the_end = (&images - others).unwrap();
    let mut seen = 0;
    for (index, layer) in layers.iter().enumerate() {
        let LayerSpec::ConvTranspose(spec) = layer else { continue };
        let window = ConvWindow::new(spec.kernel, spec.stride, spec.padding);
        let x = part_of(&trained, 0..index, whole.input()).forward(&z, TRAINING).unwrap();
        let w =
            whole.parameters().find(|p| p.name == format!("{index:02}.conv_transpose.weight")).unwrap().var.as_tensor().clone();
        let size = window.stride * (x.dim(1).unwrap() - 1) + window.kernel - 2 * window.padding;
        let y = conv_input_grad(&x, &w, window, (size, size), Precision::F32).unwrap();
        let rest = part_of(&trained, index + 1..layers.len(), map_of(&y));
        let (made, trace) = rest.forward_traced(&y, TRAINING).unwrap();
        assert!(distance(&made, &images) < 1e-5);
        let dy = rest.backward(trace, at_the_end.copy().unwrap(), Wanted::Input).unwrap().remove(0);
        let (inputs, outputs) = (w.dim(0).unwrap(), w.dim(1).unwrap());
        if window.stride != 2 || outputs < 32 {
            continue;
        }
        let to_f64 = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let bf16 = Precision::Bf16;
        let (out, back, kernels) = (
            conv_input_grad(&to_f64(&x), &to_f64(&w), window, (size, size), Precision::F32).unwrap(),
            conv(&to_f64(&dy), &to_f64(&w), window, Precision::F32).unwrap(),
            conv_weight_grad(&to_f64(&dy), &to_f64(&x), window, Precision::F32).unwrap(),
        );
        let fast = [
            conv_input_grad(&x, &w, window, (size, size), bf16).unwrap(),
            conv(&dy, &w, window, bf16).unwrap(),
            conv_weight_grad(&dy, &x, window, bf16).unwrap(),
        ];
        let narrow =
            |t: &Tensor, dim: usize, first: usize, len: usize| t.narrow(dim, first, len).unwrap().contiguous().unwrap();
        let plain = [
            by_pieces(outputs, 3, |first, len| {
                conv_input_grad(&x, &narrow(&w, 1, first, len), window, (size, size), bf16).unwrap()
            }),
            by_pieces(inputs, 3, |first, len| conv(&dy, &narrow(&w, 0, first, len), window, bf16).unwrap()),
            by_pieces(inputs, 0, |first, len| conv_weight_grad(&dy, &narrow(&x, 3, first, len), window, bf16).unwrap()),
        ];
        for (what, (exact, (fast, plain))) in
            ["forward", "to the input", "to the kernels"].iter().zip([out, back, kernels].iter().zip(fast.iter().zip(&plain)))
        {
            let (fast, plain) = (distance(fast, exact), distance(plain, exact));
            eprintln!(
                "layer {index}, {inputs} to {outputs} channels, {what}: {fast:.5} in the fast form, {plain:.5} by im2col"
            );
            assert!(fast > 0.0 && plain > 0.0 && fast < 0.006 && fast < 4.0 * plain, "layer {index}, {what}: {fast}, {plain}");
            seen += 1;
        }
    }
    assert_eq!(seen, 9);
}
