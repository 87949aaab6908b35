//! What the input and the output of a generator's graph are: as its contract promises, or as a stranger's are found.

use std::ops;

use half::f16;
use ort::value::{DynValue, TensorElementType};

use super::limits::MAX_BATCH;
use super::model::Port;
use crate::contract::{self, Contract, Layout};
use crate::error::{Error, OrtResult, Result};
use crate::image::Range;
use crate::latent::{Distribution, Latent};

const MAX_LATENT: i64 = 1 << 20;
const MAX_SIDE: i64 = 1 << 14;

/// How the output's elements make images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutputForm {
    pub element: Element,
    pub channels_first: bool,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// What an output's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    /// Pixels.
    U8,
}

impl Element {
    fn of(element: TensorElementType) -> Option<Self> {
        match element {
            TensorElementType::Float32 => Some(Self::F32),
            TensorElementType::Float16 => Some(Self::F16),
            TensorElementType::Uint8 => Some(Self::U8),
            _ => None,
        }
    }
}

impl OutputForm {
    /// Elements of an image.
    pub fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Some rows of an output as pixels, channels last. Gives the first of them that holds a value which is no number, if one does.
    pub fn pixels(
        &self,
        output: &DynValue,
        rows: ops::Range<usize>,
        range: Option<Range>,
        out: &mut [u8],
    ) -> Result<Option<usize>> {
        let range = || range.ok_or_else(|| Error::Ort("the output's range is unknown".into()));
        match self.element {
            Element::U8 => self.put(self.rows::<u8>(output, rows)?, out, |value| value),
            Element::F32 => {
                let (values, range) = (self.rows::<f32>(output, rows)?, range()?);
                if let Some(row) = self.first_with(values, |value| !value.is_finite()) {
                    return Ok(Some(row));
                }
                self.put(values, out, |value| range.pixel(value));
            }
            Element::F16 => {
                let (values, range) = (self.rows::<f16>(output, rows)?, range()?);
                if let Some(row) = self.first_with(values, |value| !value.is_finite()) {
                    return Ok(Some(row));
                }
                self.put(values, out, |value| range.pixel(value.to_f32()));
            }
        }
        Ok(None)
    }

    /// The first image with a value that is `wrong`. Nothing is decided from value to value, so that the processor takes many at once.
    fn first_with<T: Copy>(&self, values: &[T], wrong: impl Fn(T) -> bool) -> Option<usize> {
        values.chunks_exact(self.image()).position(|image| image.iter().fold(false, |any, &value| any | wrong(value)))
    }

    /// Values of whole images as pixels, channels last.
    fn put<T: Copy>(&self, values: &[T], out: &mut [u8], pixel: impl Fn(T) -> u8) {
        if !self.channels_first {
            out.iter_mut().zip(values).for_each(|(out, &value)| *out = pixel(value));
            return;
        }
        let area = self.height * self.width;
        for (image, out) in values.chunks_exact(self.image()).zip(out.chunks_exact_mut(self.image())) {
            for (channel, plane) in image.chunks_exact(area).enumerate() {
                let places = out.iter_mut().skip(channel).step_by(self.channels);
                places.zip(plane).for_each(|(out, &value)| *out = pixel(value));
            }
        }
    }

    /// Some rows of an output as they are.
    pub fn values(&self, output: &DynValue, rows: ops::Range<usize>, out: &mut [f32]) -> Result<()> {
        match self.element {
            Element::F32 => out.copy_from_slice(self.rows::<f32>(output, rows)?),
            Element::F16 => out.iter_mut().zip(self.rows::<f16>(output, rows)?).for_each(|(out, value)| *out = value.to_f32()),
            Element::U8 => out.iter_mut().zip(self.rows::<u8>(output, rows)?).for_each(|(out, value)| *out = f32::from(*value)),
        }
        Ok(())
    }

    fn rows<'a, T: ort::value::PrimitiveTensorElementType + std::fmt::Debug>(
        &self,
        output: &'a DynValue,
        rows: ops::Range<usize>,
    ) -> Result<&'a [T]> {
        let (_, values) = output.try_extract_tensor::<T>().ort()?;
        let part = rows.start * self.image()..rows.end * self.image();
        values
            .get(part)
            .ok_or_else(|| Error::Ort(format!("the output has another shape than in the first run, {:?}", output.shape())))
    }
}

pub(super) const EXPECTED: &str = "Expected is a generator: one float32 or float16 input [n, z] or [n, z, 1, 1] with a fixed z, and one \
    output of images, float32, float16 or uint8, [n, c, h, w] or [n, h, w, c], with 1 or 3 channels.";

/// The latent space that a contract promises.
pub(super) fn promised_latent(name: &str, contract: &Contract, input: &Port) -> Result<Latent> {
    let size = contract.latent.size;
    let promised =
        Port { name: contract::GENERATOR_INPUT.into(), element: TensorElementType::Float32, dims: vec![-1, size as i64] };
    if !(1..=MAX_LATENT as usize).contains(&size) || *input != promised {
        return Err(broken_promise(name, &format!("the input {promised}"), input));
    }
    Ok(contract.latent)
}

fn broken_promise(name: &str, promised: &str, found: &Port) -> Error {
    Error::invalid(
        name,
        format!("its metadata promises {promised}, but the graph has {found}"),
        "The file was put together wrongly: export the generator again.",
    )
}

/// The latent space of a model without a contract, and its batch size if it is fixed.
pub(super) fn strangers_latent(name: &str, input: &Port) -> Result<(Latent, Option<usize>)> {
    let refused = || Error::invalid(name, format!("its input is {input}"), EXPECTED);
    let (batch, size) = match input.dims[..] {
        [batch, size] | [batch, size, 1, 1] if is_float(input.element) => (batch, size),
        _ => return Err(refused()),
    };
    if !(1..=MAX_LATENT).contains(&size) || batch == 0 || batch > MAX_BATCH as i64 {
        return Err(refused());
    }
    Ok((Latent { size: size as usize, distribution: Distribution::Normal }, usize::try_from(batch).ok()))
}

fn is_float(element: TensorElementType) -> bool {
    matches!(element, TensorElementType::Float32 | TensorElementType::Float16)
}

/// The output that a contract promises, if the graph has it.
pub(super) fn promised_form(name: &str, contract: &Contract, output: &Port, dims: &[i64], batch: usize) -> Result<OutputForm> {
    let &Contract { height, width, channels, layout, .. } = contract;
    let (element, channels_first) = match layout {
        Layout::NhwcU8 => (TensorElementType::Uint8, false),
        Layout::NchwU8 => (TensorElementType::Uint8, true),
        Layout::NchwF32 => (TensorElementType::Float32, true),
    };
    let image = if channels_first { [channels, height, width] } else { [height, width, channels] };
    let promised: Vec<i64> = [batch].iter().chain(&image).map(|&dim| dim as i64).collect();
    let sides = [height, width].iter().all(|side| (1..=MAX_SIDE as usize).contains(side));
    if !sides
        || !matches!(channels, 1 | 3)
        || output.name != contract::GENERATOR_OUTPUT
        || output.element != element
        || dims != promised
    {
        let promised = Port { name: contract::GENERATOR_OUTPUT.into(), element, dims: promised };
        return Err(broken_promise(name, &format!("the output {promised}"), &Port { dims: dims.to_vec(), ..output.clone() }));
    }
    let element = if element == TensorElementType::Uint8 { Element::U8 } else { Element::F32 };
    Ok(OutputForm { element, channels_first, height, width, channels })
}

/// The output of a model without a contract.
pub(super) fn strangers_form(name: &str, output: &Port, dims: &[i64], batch: usize) -> Result<OutputForm> {
    let refused = |why: &str| {
        let found = Port { dims: dims.to_vec(), ..output.clone() };
        Error::invalid(name, format!("for a batch of {batch} its output is {found}{why}"), EXPECTED)
    };
    let Some(element) = Element::of(output.element) else { return Err(refused("")) };
    let &[n, a, b, c] = dims else { return Err(refused("")) };
    if n != batch as i64 || [a, b, c].iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
        return Err(refused(""));
    }
    let (channels_first, [channels, height, width]) = match (matches!(a, 1 | 3), matches!(c, 1 | 3)) {
        (true, false) => (true, [a, b, c]),
        (false, true) => (false, [c, a, b]),
        (true, true) => return Err(refused(", and the channels could be the second or the last axis")),
        (false, false) => return Err(refused("")),
    };
    Ok(OutputForm { element, channels_first, height: height as usize, width: width as usize, channels: channels as usize })
}
