//! Decimals: as text, so that no digit is lost, and compared by all of their digits.

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Decimal128Type, Decimal256Type, DecimalType};
use arrow_array::{Array, ArrayRef, Decimal256Array, StringArray};

/// A decimal without its point.
type Digits = <Decimal256Type as ArrowPrimitiveType>::Native;

/// A column of Decimal128 or Decimal256.
pub(crate) struct DecimalColumn {
    pub texts: StringArray,
    digits: Decimal256Array,
    /// Digits behind the point.
    scale: usize,
}

impl DecimalColumn {
    pub fn from_128(array: &ArrayRef) -> Self {
        let digits = array
            .as_primitive::<Decimal128Type>()
            .unary(Digits::from_i128);
        Self::new::<Decimal128Type>(array, digits)
    }

    pub fn from_256(array: &ArrayRef) -> Self {
        let digits = array.as_primitive::<Decimal256Type>().clone();
        Self::new::<Decimal256Type>(array, digits)
    }

    fn new<T: DecimalType>(array: &ArrayRef, digits: Decimal256Array) -> Self {
        let array = array.as_primitive::<T>();
        let text = |row| array.is_valid(row).then(|| array.value_as_string(row));
        Self {
            texts: (0..array.len()).map(text).collect(),
            digits,
            // ClickHouse has no scale below 0.
            scale: usize::try_from(array.scale()).unwrap_or(0),
        }
    }

    /// For each row, whether its value is at least `minimum`, by the digits that `minimum` is written with.
    pub fn at_least(&self, minimum: f64) -> Vec<bool> {
        let least = least(minimum, self.scale);
        let values = self.digits.iter();
        values
            .map(|value| {
                value
                    .zip(least)
                    .is_some_and(|(value, least)| value >= least)
            })
            .collect()
    }
}

/// The least decimal of this scale that is at least `minimum`; `None` when there is none.
fn least(minimum: f64, scale: usize) -> Option<Digits> {
    if minimum.is_nan() || minimum == f64::INFINITY {
        return None;
    }
    if minimum == f64::NEG_INFINITY {
        return Some(Digits::MIN);
    }
    // Rust writes no exponent.
    let text = minimum.abs().to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let kept = fraction.len().min(scale);
    let digits = format!("{whole}{:0<scale$}", &fraction[..kept]);
    let is_exact = fraction[kept..].bytes().all(|digit| digit == b'0');
    let digits = Digits::from_string(&digits);
    if minimum < 0.0 {
        // Cut off towards zero is rounded up.
        return Some(digits.map_or(Digits::MIN, Digits::wrapping_neg));
    }
    let up = if is_exact { Digits::ZERO } else { Digits::ONE };
    digits?.checked_add(up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimum_is_compared_by_its_digits() {
        for (minimum, scale, expected) in [
            (10.0, 2, Some(1000)),
            (0.1, 1, Some(1)),
            (0.15, 1, Some(2)),
            (-0.15, 1, Some(-1)),
            (10.0, 0, Some(10)),
            (10.5, 0, Some(11)),
            (f64::NAN, 2, None),
            (f64::INFINITY, 2, None),
            (1e300, 2, None),
        ] {
            let expected = expected.map(Digits::from_i128);
            assert_eq!(least(minimum, scale), expected, "{minimum}");
        }
        assert_eq!(least(f64::NEG_INFINITY, 2), Some(Digits::MIN));
        assert_eq!(least(-1e300, 2), Some(Digits::MIN));
    }
}
