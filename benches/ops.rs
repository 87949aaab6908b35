//! Single operations of training at the presets' shapes, as criterion measures them; throughput in multiply-adds × 2.
//!
//! ```text
//! cargo bench --bench ops                         # all; RAYON_NUM_THREADS says on how many threads
//! cargo bench --bench ops -- conv/                # only these
//! cargo bench --bench ops -- --save-baseline old  # to be compared with by --baseline old
//! ```

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor, Var};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ganforge::config::{InitConfig, TrainConfig};
use ganforge::nn::conv::{Window, conv, conv_input_grad};
use ganforge::nn::norm::{Rectifier, batch_norm};
use ganforge::nn::{Gradients, Network, Pass, Role};
use ganforge::optim::Optimizer;
use ganforge::shape::{LayerSpec, Shape};
use ganforge::train::critic_network;

/// As gan-train has it.
#[cfg(feature = "cli")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 64;
const PASS: Pass = Pass::Train { seed: 0, number: 0 };

/// A convolution of a critic: (name, channels in, channels out, size in, window).
type Conv = (&'static str, usize, usize, usize, Window);

const CONVS: [Conv; 4] = [
    ("dcgan-64 first", 3, 64, 64, Window { kernel: 4, stride: 2, padding: 1 }),
    ("dcgan-64 second", 64, 128, 32, Window { kernel: 4, stride: 2, padding: 1 }),
    ("dcgan-64 fourth", 256, 512, 8, Window { kernel: 4, stride: 2, padding: 1 }),
    ("wgan-anime second", 128, 256, 32, Window { kernel: 3, stride: 2, padding: 1 }),
];

fn random(dims: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, dims, &Device::Cpu)
}

/// Forward, to the input, to the kernels.
fn convolutions(criterion: &mut Criterion) -> Result<()> {
    for (name, ci, co, size, window) in CONVS {
        let out = window.output(size);
        let kernels = random(&[co, ci, window.kernel, window.kernel])?;
        let (x, dy) = (random(&[BATCH, ci, size, size])?, random(&[BATCH, co, out, out])?);
        let learning = Var::from_tensor(&kernels)?;
        let loss = (conv(&x, learning.as_tensor(), window)? * &dy)?.sum_all()?;

        let mut group = criterion.benchmark_group(format!("conv/{name}"));
        let flops = 2 * BATCH * co * out * out * ci * window.kernel * window.kernel;
        group.throughput(Throughput::Elements(flops as u64));
        group.bench_function("forward", |b| b.iter(|| black_box(conv(&x, &kernels, window))));
        group.bench_function("input gradient", |b| b.iter(|| black_box(conv_input_grad(&dy, &kernels, window, (size, size)))));
        group.bench_function("weight gradient", |b| b.iter(|| black_box(loss.backward())));
        group.finish();
    }
    Ok(())
}

fn batch_norms(criterion: &mut Criterion) -> Result<()> {
    for (name, c, size) in [("dcgan-64 first", 64, 32), ("dcgan-64 fourth", 512, 4)] {
        let x = Var::from_tensor(&random(&[BATCH, c, size, size])?)?;
        let (weight, bias) = (Var::from_tensor(&random(&[c])?)?, Var::from_tensor(&random(&[c])?)?);
        let forward = || batch_norm(x.as_tensor(), weight.as_tensor(), bias.as_tensor(), Rectifier { slope: 0.2 });
        let loss = forward()?.y.sum_all()?;
        let mut group = criterion.benchmark_group(format!("batch norm/{name}"));
        group.bench_function("forward", |b| b.iter(|| black_box(forward().map(|normalised| normalised.y))));
        group.bench_function("backward", |b| b.iter(|| black_box(loss.backward())));
        group.finish();
    }
    Ok(())
}

/// The widest layer of gan-fashion-mlp's critic.
fn linear(criterion: &mut Criterion) -> ganforge::error::Result<()> {
    let (features, out) = (784, 1024);
    let layers = [LayerSpec::Linear { out, bias: true }];
    let input = Shape::Flat(features);
    let network = Network::new(&layers, input, &InitConfig::default(), Role::Critic, 0, &Device::Cpu, DType::F32)?;
    let x = Var::from_tensor(&random(&[BATCH, features])?)?;
    let forward = || network.forward(x.as_tensor(), PASS, Gradients::Tracked);
    let loss = forward()?.sum_all()?;
    let mut group = criterion.benchmark_group("linear/gan-fashion-mlp");
    group.throughput(Throughput::Elements((2 * BATCH * features * out) as u64));
    group.bench_function("forward", |b| b.iter(|| black_box(forward())));
    group.throughput(Throughput::Elements((4 * BATCH * features * out) as u64));
    group.bench_function("backward", |b| b.iter(|| black_box(loss.backward())));
    group.finish();
    Ok(())
}

/// On the parameters of a critic: Adam and RMSprop.
fn optimizers(criterion: &mut Criterion) -> ganforge::error::Result<()> {
    for preset in ["dcgan-64", "wgan-anime"] {
        let config = TrainConfig::preset(preset)?;
        let critic = critic_network(&config, &Device::Cpu, DType::F32)?;
        let images = random(&config.image_shape().with_batch(2))?;
        let gradients = critic.forward(&images, PASS, Gradients::Tracked)?.sum_all()?.backward()?;
        let mut optimizer = Optimizer::new(config.optimizer.critic, &critic)?;
        let mut group = criterion.benchmark_group(format!("optimiser/{preset}"));
        group.throughput(Throughput::Elements(critic.trainable_count() as u64));
        group.bench_function("step", |b| b.iter(|| black_box(optimizer.step(&critic, &gradients))));
        group.finish();
    }
    Ok(())
}

fn all(criterion: &mut Criterion) {
    let done = convolutions(criterion).and_then(|()| batch_norms(criterion)).map_err(ganforge::error::Error::from);
    if let Err(error) = done.and_then(|()| linear(criterion)).and_then(|()| optimizers(criterion)) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = all
}
criterion_main!(benches);
