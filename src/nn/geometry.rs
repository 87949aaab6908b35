//! Where the windows of a convolution lie, and the sizes that follow.

use candle_core::{Result, bail};

/// Where a square kernel lands on its input, and which channels it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvWindow {
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between positions.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
    /// The channels are cut into so many groups, each of which is convolved by itself; 1 for a plain convolution.
    pub groups: usize,
}

impl ConvWindow {
    /// A kernel of 1: a linear layer at every position.
    pub const POINT: Self = Self::new(1, 1, 0);

    /// That of a plain convolution.
    pub const fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel, stride, padding, groups: 1 }
    }

    /// The same in so many groups of channels.
    pub const fn in_groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// The output size of a convolution of an input of `size`; 0 where the kernel does not fit, or the stride is 0.
    pub fn output(&self, size: usize) -> usize {
        let room = (size + 2 * self.padding).checked_sub(self.kernel);
        room.and_then(|room| room.checked_div(self.stride)).map_or(0, |steps| steps + 1)
    }
}

/// What all three kernels need to know: `x` is `[n, h, w, ci]`, `y` is `[n, out_h, out_w, co]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ConvPlan {
    pub window: ConvWindow,
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub ci: usize,
    pub out_h: usize,
    pub out_w: usize,
    pub co: usize,
}

impl ConvPlan {
    pub fn new(window: ConvWindow, x: [usize; 4], y: [usize; 4], kernels: [usize; 4]) -> Result<Self> {
        let [n, h, w, ci] = x;
        let [m, out_h, out_w, co] = y;
        let ConvWindow { kernel: k, stride, groups, .. } = window;
        let empty = x.contains(&0) || y.contains(&0) || k == 0 || stride == 0 || groups == 0;
        let whole = ci.checked_rem(groups) == Some(0) && co.checked_rem(groups) == Some(0);
        if empty
            || !whole
            || n != m
            || kernels != [co, ci / groups, k, k]
            || window.output(h) != out_h
            || window.output(w) != out_w
        {
            bail!("convolution: kernels {kernels:?} with {window:?} do not map {x:?} to {y:?} (channels last)");
        }
        Ok(Self { window, n, h, w, ci, out_h, out_w, co })
    }

    /// Input and output channels of a group.
    pub fn of_group(&self) -> [usize; 2] {
        [self.ci / self.window.groups, self.co / self.window.groups]
    }

    /// Elements of one input image.
    pub fn x_len(&self) -> usize {
        self.h * self.w * self.ci
    }

    /// Output positions of one image.
    pub fn positions(&self) -> usize {
        self.out_h * self.out_w
    }

    /// Elements of one output image.
    pub fn y_len(&self) -> usize {
        self.positions() * self.co
    }
}

/// Which of the three convolutions: from (x, w), (dy, w), (x, dy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    /// The convolution.
    Forward,
    /// Its gradient to the input: the transposed convolution.
    InputGrad,
    /// Its gradient to the kernels.
    WeightGrad,
}

/// What becomes of a map before a convolution, or behind it, that is built as one with it (`nn::resample`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resampling {
    /// Squares of four become their mean, behind the convolution.
    Halved,
    /// Each value becomes a square of four, before it.
    Doubled,
}

impl Resampling {
    /// The sizes that kernels of these have when they are widened (`nn::resample`).
    pub fn wide(self, [co, ci, k, l]: [usize; 4]) -> [usize; 4] {
        match self {
            Self::Halved => [co, ci, k + 1, l + 1],
            Self::Doubled => [ci, co, k + 1, l + 1],
        }
    }

    /// The inverse of [`Self::wide`].
    pub fn narrow(self, [a, b, k, l]: [usize; 4]) -> [usize; 4] {
        match self {
            Self::Halved => [a, b, k - 1, l - 1],
            Self::Doubled => [b, a, k - 1, l - 1],
        }
    }
}
