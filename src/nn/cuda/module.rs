//! Our kernels: compiled when a device is first used, launched by name.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Result;
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

use super::types::failed;

/// The kernels' source; `make check-cuda` compiles it ahead of time.
const KERNELS: &str = include_str!("kernels.cu");
/// Threads a block of the elementwise kernels.
pub(super) const THREADS: u32 = 256;
/// Blocks of theirs at most: each thread then takes several values.
pub(super) const MAX_BLOCKS: u32 = 1 << 14;
/// Rows a block of the first stage of a sum over rows takes, as in `kernels.cu`.
pub(super) const ROWS: usize = 128;
/// Columns of a tile, as in `kernels.cu`.
pub(super) const TILE: u32 = 32;

/// Something that can be passed to a kernel.
pub(super) trait Argument {
    fn push<'a>(&'a self, to: &mut LaunchArgs<'a>);
}

impl<T: DeviceRepr> Argument for T {
    fn push<'a>(&'a self, to: &mut LaunchArgs<'a>) {
        to.arg(self);
    }
}

/// Blocks and threads of a launch.
#[derive(Clone, Copy)]
pub(super) struct Grid(pub [u32; 3], pub [u32; 2]);

impl Grid {
    /// One value a thread, or a few.
    pub fn each(len: u32) -> Self {
        Self([len.div_ceil(THREADS).clamp(1, MAX_BLOCKS), 1, 1], [THREADS, 1])
    }

    /// The first stage of a sum over rows.
    pub fn partial(parts: u32, c: u32) -> Self {
        Self([parts, c.div_ceil(TILE), 1], [TILE, 8])
    }

    /// The second stage.
    pub fn total(c: u32) -> Self {
        Self([c.div_ceil(TILE), 1, 1], [TILE, 32])
    }
}

/// The kernels on one device.
pub(super) struct Kernels {
    module: Arc<CudaModule>,
    functions: HashMap<[&'static str; 2], CudaFunction>,
}

impl Kernels {
    pub fn compile(stream: &Arc<CudaStream>) -> Result<Self> {
        let (major, minor) = stream.context().compute_capability().map_err(failed("the CUDA driver"))?;
        let arch = format!("--gpu-architecture=compute_{major}{minor}");
        let options = CompileOptions { options: vec![arch], name: Some("kernels.cu".to_string()), ..Default::default() };
        let ptx = compile_ptx_with_opts(KERNELS, options).map_err(failed("nvrtc, compiling our kernels"))?;
        let module = stream.context().load_module(ptx).map_err(failed("the CUDA driver, loading our kernels"))?;
        Ok(Self { module, functions: HashMap::new() })
    }

    /// Launches the kernel `name_suffix`. The arguments must be those that it takes, in their order.
    pub fn launch(
        &mut self,
        stream: &Arc<CudaStream>,
        [name, suffix]: [&'static str; 2],
        grid: Grid,
        arguments: &[&dyn Argument],
    ) -> Result<()> {
        let function = match self.functions.get(&[name, suffix]) {
            Some(function) => function.clone(),
            None => {
                let function = self.module.load_function(&format!("{name}_{suffix}")).map_err(failed(name))?;
                self.functions.insert([name, suffix], function.clone());
                function
            }
        };
        let mut launch = stream.launch_builder(&function);
        arguments.iter().for_each(|argument| argument.push(&mut launch));
        let Grid([x, y, z], [columns, rows]) = grid;
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (columns, rows, 1), shared_mem_bytes: 0 };
        // SAFETY: the callers pass what the kernels declare, and addresses of as many values as the lengths beside them say.
        unsafe { launch.launch(config) }.map_err(failed(name))?;
        Ok(())
    }
}
