//! The models that come with [ganforge](https://crates.io/crates/ganforge), as ONNX files. Each names its data set, loss and seed in its metadata.

#![no_std]
#![warn(missing_docs)]

/// Anime faces, 64 × 64 colour: computes in f32, weights stored in 8 bits.
pub static FACES: &[u8] = include_bytes!("faces.onnx");

/// Anime faces in int8, the faster on CPUs.
pub static FACES_INT8: &[u8] = include_bytes!("faces.int8.onnx");

/// Handwritten digits, 28 × 28 grey: computes in f32, weights stored in 8 bits.
pub static DIGITS: &[u8] = include_bytes!("digits.onnx");

/// Handwritten digits in int8, the faster on CPUs.
pub static DIGITS_INT8: &[u8] = include_bytes!("digits.int8.onnx");

/// Garments, shoes and bags, 28 × 28 grey: computes in f32, weights stored in 8 bits.
pub static FASHION: &[u8] = include_bytes!("fashion.onnx");

/// Garments, shoes and bags in int8, the faster on CPUs.
pub static FASHION_INT8: &[u8] = include_bytes!("fashion.int8.onnx");

/// A classifier whose features tell how good images of 28 × 28 are.
pub static FEATURES_28: &[u8] = include_bytes!("features-28.onnx");

/// A network whose features tell how good faces of 64 × 64 are.
pub static FEATURES_FACES: &[u8] = include_bytes!("features-faces.onnx");
