//! Training on NVIDIA GPUs: kernels of ours (`kernels.cu`), matrix products by cuBLAS, convolutions by cuDNN.

pub(crate) mod augment;
pub(in crate::nn) mod by_image;
pub(crate) mod capture;
pub(in crate::nn) mod conv;
mod cudnn;
pub(crate) mod driver;
pub(crate) mod elementwise;
mod memory;
mod module;
pub(in crate::nn) mod norm;
pub(in crate::nn) mod scores;
pub(in crate::nn) mod slopes;
pub(in crate::nn) mod spectral;
mod types;
pub(in crate::nn) mod update;
pub(crate) mod upload;
