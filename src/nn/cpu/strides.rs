//! How matrices lie in slices.

/// A matrix in a slice: element (i, j) is at `i · row_step + j · column_step`.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    pub row_step: usize,
    pub column_step: usize,
}

/// A matrix of rows one behind the other.
pub(crate) const fn row_major(row_len: usize) -> Strides {
    Strides { row_step: row_len, column_step: 1 }
}

/// The transpose of a matrix whose rows lie one behind the other.
pub(crate) const fn transposed(row_len: usize) -> Strides {
    Strides { row_step: 1, column_step: row_len }
}
