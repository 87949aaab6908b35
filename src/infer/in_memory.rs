//! Images in memory: of seeds, of latents of the caller's, one after another.

use std::ops::{Deref, Range};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::conditioning::{Class, Conditioning};
use super::generator::{Generator, Sampler, no_colour};
use super::limits;
use super::selection::{Selection, span};
use crate::error::{Error, Result};
use crate::image::Images;
use crate::latent::Truncation;

impl Generator {
    /// Images `start..start + n` of a seed. [`Self::batches`] gives them part by part, and [`pipeline`](crate::infer::pipeline) writes any
    /// number of them into files, both in little memory.
    ///
    /// # Errors
    /// When a float output's range is not known, indices reach [`MAX_INDEX`](super::selection::MAX_INDEX), the network gives NaN or
    /// infinity instead of an image (the message names it), there is no memory for them, or onnxruntime fails.
    pub fn sample(&self, seed: u64, start: u64, n: usize) -> Result<Images> {
        self.sample_with(&Conditioning::default(), seed, start, n)
    }

    /// As [`Self::sample`], with something done to the latents.
    ///
    /// ```
    /// # fn main() -> ganforge::error::Result<()> {
    /// use ganforge::infer::{Conditioning, Generator, Options};
    ///
    /// let generator = Generator::open("onnx/digits.onnx", &Options::default())?;
    /// let tame = Conditioning::default().truncation(generator.truncation(1.5)?);
    /// let images = generator.sample_with(&tame, 0, 0, 16)?;
    /// assert_eq!((images.n, images.height, images.width, images.channels), (16, 28, 28, 1));
    /// # Ok(())
    /// # }
    /// ```
    /// Of a generator that knows classes, `Conditioning::default().class(generator.class("7")?)` makes one of them only.
    ///
    /// # Errors
    /// As [`Self::sample`]; and when the class is another generator's.
    pub fn sample_with(&self, conditioning: &Conditioning, seed: u64, start: u64, n: usize) -> Result<Images> {
        let mut images = self.blank(n)?;
        self.sample_places(conditioning, seed, span(start, n as u64)?, &mut images.pixels)?;
        Ok(images)
    }

    /// As [`Self::sample`], into a buffer of the caller's: `out.len() / image bytes` images, `[n, height, width, channels]`.
    ///
    /// ```
    /// # fn main() -> ganforge::error::Result<()> {
    /// use ganforge::infer::{Generator, Options};
    ///
    /// // A run makes a whole batch, whatever is wanted of it: here one image at a time is.
    /// let generator = Generator::open("onnx/digits.onnx", &Options::default().batch(1))?;
    /// let [height, width, channels] = generator.image_shape();
    /// let mut frame = vec![0; height * width * channels];
    /// for index in 0..10 {
    ///     generator.sample_into(42, index, &mut frame)?; // the same bytes wherever and however often
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::sample`]; and when `out` does not hold a whole number of images.
    pub fn sample_into(&self, seed: u64, start: u64, out: &mut [u8]) -> Result<()> {
        self.sample_into_with(&Conditioning::default(), seed, start, out)
    }

    /// As [`Self::sample_into`], with something done to the latents.
    ///
    /// # Errors
    /// As [`Self::sample_into`]; and when the class is another generator's.
    pub fn sample_into_with(&self, conditioning: &Conditioning, seed: u64, start: u64, out: &mut [u8]) -> Result<()> {
        let n = self.whole_images(out.len())?;
        self.sample_places(conditioning, seed, span(start, n)?, out)
    }

    fn sample_places(&self, conditioning: &Conditioning, seed: u64, wanted: Range<u64>, out: &mut [u8]) -> Result<()> {
        self.check(conditioning)?;
        let selection = Selection::Numbers { seed, start: wanted.start, n: wanted.end - wanted.start };
        let mut rest = out;
        let mut parts = Vec::new();
        for part in self.runs().cut(wanted) {
            let (now, later) = rest.split_at_mut((part.end - part.start) as usize * self.image_bytes());
            parts.push((part, now));
            rest = later;
        }
        self.share_out(parts, |sampler, (places, out)| sampler.pixels(&selection, conditioning, places, out))
    }

    /// The latents of images `start..start + n` of a seed, `[n, latent size]`: what [`Self::sample`] makes these of.
    ///
    /// # Errors
    /// When indices reach [`MAX_INDEX`](super::selection::MAX_INDEX), or there is no memory for them.
    pub fn latents(&self, seed: u64, start: u64, n: usize) -> Result<Vec<f32>> {
        span(start, n as u64)?;
        let size = self.latent().size;
        let mut rows = limits::zeros(n.saturating_mul(size), || format!("{n} latents of {size} at once"))?;
        self.latents_into(seed, start, &mut rows)?;
        Ok(rows)
    }

    /// As [`Self::latents`], into a buffer of the caller's: `out.len() / latent size` of them.
    ///
    /// # Errors
    /// When `out` does not hold a whole number of latents, or as [`Self::latents`].
    pub fn latents_into(&self, seed: u64, start: u64, out: &mut [f32]) -> Result<()> {
        let size = self.latent().size;
        if !out.len().is_multiple_of(size) {
            let what = format!("a buffer of {} values does not hold a whole number of latents of {size}", out.len());
            return Err(Error::usage(what, "Give n · latent size values."));
        }
        span(start, (out.len() / size) as u64)?;
        self.latent().fill_rows(seed, start, out);
        Ok(())
    }

    /// Images of latents of the caller's, `[n, latent size]`, in their order. Those of [`Self::latents`] give the images of [`Self::sample`]:
    /// the same bytes where `start` is a multiple of [`Self::batch`], within 1 elsewhere.
    ///
    /// ```
    /// # fn main() -> ganforge::error::Result<()> {
    /// use ganforge::infer::{Generator, Options};
    /// # let dir = tempfile::tempdir().unwrap();
    ///
    /// // From image 3 to image 8 in ten steps.
    /// let generator = Generator::open("onnx/faces.int8.onnx", &Options::default())?;
    /// let (a, b) = (generator.latents(0, 3, 1)?, generator.latents(0, 8, 1)?);
    /// let mut between = Vec::new();
    /// for step in 0..10 {
    ///     between.extend(generator.latent().interpolate(&a, &b, step as f32 / 9.0)?);
    /// }
    /// let strip = "strip.png";
    /// # let strip = dir.path().join(strip);
    /// ganforge::image::save_grid(&generator.generate(&between)?, 10, strip)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there are no latents, not a whole number of them, one is not finite or gives no image (the message says which), a float
    /// output's range is not known, or onnxruntime fails.
    pub fn generate(&self, latents: &[f32]) -> Result<Images> {
        self.generate_with(&Conditioning::default(), latents)
    }

    /// As [`Self::generate`], with something done to the latents.
    ///
    /// # Errors
    /// As [`Self::generate`]; and when the class is another generator's.
    pub fn generate_with(&self, conditioning: &Conditioning, latents: &[f32]) -> Result<Images> {
        let mut images = self.blank(self.whole_latents(latents)?)?;
        self.generate_into_with(conditioning, latents, &mut images.pixels)?;
        Ok(images)
    }

    /// As [`Self::generate_with`], into a buffer of the caller's that holds as many images as there are latents.
    ///
    /// # Errors
    /// As [`Self::generate_with`]; and when `out` has another size.
    pub fn generate_into_with(&self, conditioning: &Conditioning, latents: &[f32], out: &mut [u8]) -> Result<()> {
        self.check(conditioning)?;
        let (n, image) = (self.whole_latents(latents)?, self.image_bytes());
        if out.len() != n * image {
            let what = format!("a buffer of {} bytes is not that of {n} images of {image}", out.len());
            return Err(Error::usage(what, "Give n · height · width · channels bytes for n latents."));
        }
        if let Some(at) = latents.iter().position(|value| !value.is_finite()) {
            let size = self.latent().size;
            let what = format!("value {} of latent {} is {}", at % size, at / size, latents[at]);
            return Err(Error::usage(what, "Give finite numbers."));
        }
        let batch = self.batch();
        let parts = latents.chunks(batch * self.latent().size).zip(out.chunks_mut(batch * image)).enumerate();
        self.share_out(parts.collect(), |sampler, (number, (latents, out))| {
            match sampler.pixels_of(conditioning, latents, out)? {
                Some(row) => Err(no_colour(self.name(), &format!("latent {}", number * batch + row))),
                None => Ok(()),
            }
        })
    }

    /// Images `start..start + n` of a seed, `size` at a time and the last ones fewer, in memory that does not grow with `n`. They are those
    /// of [`Self::sample_with`], byte for byte, whatever `size` is.
    ///
    /// ```
    /// # fn main() -> ganforge::error::Result<()> {
    /// use ganforge::infer::{Conditioning, Generator, Options};
    ///
    /// let generator = Generator::open("onnx/digits.onnx", &Options::default())?;
    /// let mut brightest = 0;
    /// for images in generator.batches(&Conditioning::default(), 0, 0, 1_000, 64) {
    ///     brightest = images?.pixels.iter().copied().fold(brightest, u8::max);
    /// }
    /// assert!(brightest > 200);
    /// # Ok(())
    /// # }
    /// ```
    pub fn batches(&self, conditioning: &Conditioning, seed: u64, start: u64, n: u64, size: usize) -> Batches<&Self> {
        Batches::new(self, conditioning, seed, start, n, size)
    }

    /// The class of that name, or else of that number from 0, for [`Conditioning::class`].
    ///
    /// # Errors
    /// When the generator knows no classes, or none of that name or number.
    pub fn class(&self, name_or_number: &str) -> Result<Class> {
        Class::named(name_or_number, self.contract(), self.name())
    }

    /// The restriction of this generator's latents to [−x, x], for [`Conditioning::truncation`].
    ///
    /// # Errors
    /// When `x` is not above 0, not finite, or above what the latents reach anyway.
    pub fn truncation(&self, x: f64) -> Result<Truncation> {
        Truncation::new(x, self.latent().distribution)
    }

    fn check(&self, conditioning: &Conditioning) -> Result<()> {
        conditioning.class.map_or(Ok(()), |class| class.check(self.contract(), self.name()))
    }

    fn image_bytes(&self) -> usize {
        self.image_shape().iter().product()
    }

    /// Memory for `n` images.
    fn blank(&self, n: usize) -> Result<Images> {
        let [height, width, channels] = self.image_shape();
        let what = || format!("{n} images of {height} × {width} × {channels} at once");
        let pixels = limits::zeros(n.saturating_mul(self.image_bytes()), what)?;
        Ok(Images { n, height, width, channels, pixels })
    }

    /// How many latents these are.
    fn whole_latents(&self, latents: &[f32]) -> Result<usize> {
        let size = self.latent().size;
        if latents.is_empty() || !latents.len().is_multiple_of(size) {
            let what = format!("{} values are not a whole number of latents of {size}", latents.len());
            return Err(Error::usage(what, "Give n · latent size values."));
        }
        Ok(latents.len() / size)
    }

    /// Has `work` done for each part, on up to [`Self::threads`] threads, of which the caller's is one. What fails first in the order of the
    /// parts is the error: earlier parts have all been done by then. Where the system gives fewer threads or sessions, fewer do the work.
    fn share_out<P: Send>(&self, parts: Vec<P>, work: impl Fn(&mut Sampler, P) -> Result<()> + Sync) -> Result<()> {
        let others = self.threads().min(parts.len()).saturating_sub(1);
        let parts = Mutex::new(parts.into_iter().enumerate());
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let all = |mut sampler: Sampler| {
            let is_over = || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
            // Looked at before a part is taken: what is taken is done.
            while !is_over()
                && let Some((number, part)) = next()
            {
                if let Err(e) = work(&mut sampler, part) {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    if failed.as_ref().is_none_or(|(first, _)| number < *first) {
                        *failed = Some((number, e));
                    }
                }
            }
        };
        let first = self.sampler()?;
        thread::scope(|scope| {
            for _ in 0..others {
                let spawned = thread::Builder::new().spawn_scoped(scope, || self.sampler().map(all));
                if spawned.is_err() {
                    break;
                }
            }
            all(first);
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, e)| Err(e))
    }
}

/// Images of a seed, some at a time: [`Generator::batches`]. `G` is a reference to the generator, or an [`Arc`](std::sync::Arc) of it for
/// an iterator that outlives the place it was made in.
///
/// It makes as many images together as keep all threads at work. After an error it ends.
pub struct Batches<G> {
    generator: G,
    conditioning: Conditioning,
    seed: u64,
    /// What is still to be made.
    left: Range<u64>,
    size: usize,
    /// Images that are made, and how many of their bytes were given away.
    ready: Vec<u8>,
    given: usize,
    /// Why there are none.
    wrong: Option<Error>,
}

impl<G: Deref<Target = Generator>> Batches<G> {
    /// As [`Generator::batches`].
    pub fn new(generator: G, conditioning: &Conditioning, seed: u64, start: u64, n: u64, size: usize) -> Self {
        let (left, wrong) = match span(start, n) {
            _ if size == 0 => (0..0, Some(Error::usage("batches of 0 images were asked for", "Ask for 1 or more at a time."))),
            Ok(left) => (left, None),
            Err(e) => (0..0, Some(e)),
        };
        Self { generator, conditioning: *conditioning, seed, left, size, ready: Vec::new(), given: 0, wrong }
    }

    /// Makes the next images: whole runs of the network, but for the first and the last.
    fn make(&mut self) -> Result<()> {
        let generator = &*self.generator;
        let together = generator.blocks().size().saturating_mul(generator.threads() as u64);
        let first = self.left.start;
        let end = generator.runs().start(first).saturating_add(together).min(self.left.end);
        let kept = self.ready.len() - self.given;
        let mut ready = self.ready.split_off(self.given);
        let bytes = (end - first) as usize * generator.image_bytes();
        ready.try_reserve_exact(bytes).map_err(|_| {
            let what = format!("this machine has no {bytes} bytes of memory for them");
            Error::invalid(format!("{} images at a time", self.size), what, "Ask for fewer at a time.")
        })?;
        ready.resize(kept + bytes, 0);
        generator.sample_places(&self.conditioning, self.seed, first..end, &mut ready[kept..])?;
        (self.ready, self.given, self.left.start) = (ready, 0, end);
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Images>> {
        let [height, width, channels] = self.generator.image_shape();
        let image = height * width * channels;
        let wanted = self.size.saturating_mul(image);
        while self.ready.len() - self.given < wanted && !self.left.is_empty() {
            self.make()?;
        }
        let bytes = wanted.min(self.ready.len() - self.given);
        let pixels = self.ready[self.given..self.given + bytes].to_vec();
        self.given += bytes;
        Ok((bytes > 0).then(|| Images { n: bytes / image, height, width, channels, pixels }))
    }
}

impl<G: Deref<Target = Generator>> Iterator for Batches<G> {
    type Item = Result<Images>;

    fn next(&mut self) -> Option<Self::Item> {
        let made = match self.wrong.take() {
            Some(e) => Err(e),
            None => self.take(),
        };
        if made.is_err() {
            (self.left, self.ready, self.given) = (0..0, Vec::new(), 0);
        }
        made.transpose()
    }
}

/// What an application may rely on: a generator can be shared among threads, and sent to them.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Generator>();
    is_shared::<Batches<&Generator>>();
    is_shared::<super::Options>();
};
