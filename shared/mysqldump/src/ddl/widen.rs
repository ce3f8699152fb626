//! Which changes of a column's type leave the rows already read as they are.

use crate::schema::{ColumnType, IntSize};

/// Whether a column changed by MODIFY still reads the values it was created for.
pub(super) fn compatible(old: &ColumnType, new: &ColumnType) -> bool {
    match (old, new) {
        (
            ColumnType::Int { size: a, unsigned: x, .. },
            ColumnType::Int { size: b, unsigned: y, .. },
        ) => a == b && x == y,
        (ColumnType::Json, ColumnType::Text) => true,
        _ => old == new,
    }
}

/// Whether every value of the old type is one of the new type, and is written alike.
pub(super) fn widens(old: &ColumnType, new: &ColumnType) -> bool {
    use ColumnType as T;
    let bits = |size: &IntSize, unsigned: bool| {
        let bits = match size {
            IntSize::Tiny => 8,
            IntSize::Small => 16,
            IntSize::Medium => 24,
            IntSize::Int => 32,
            IntSize::Big => 64,
        };
        if unsigned { (0, bits) } else { (bits - 1, bits - 1) }
    };
    match (old, new) {
        (T::Int { size: a, unsigned: x, .. }, T::Int { size: b, unsigned: y, .. }) => {
            let ((low, high), (new_low, new_high)) = (bits(a, *x), bits(b, *y));
            new_low >= low && new_high >= high
        }
        (
            T::Char { length: a } | T::VarChar { length: a },
            T::Char { length: b } | T::VarChar { length: b },
        ) => b >= a,
        (T::Char { .. } | T::VarChar { .. } | T::Text, T::Text) => true,
        (T::VarBinary { .. } | T::Blob, T::VarBinary { .. } | T::Blob) => true,
        (T::Enum { labels: a }, T::Enum { labels: b })
        | (T::Set { labels: a }, T::Set { labels: b }) => b.starts_with(a),
        (T::Decimal { precision: p, scale: s, .. }, T::Decimal { precision: q, scale: t, .. }) => {
            s == t && q >= p
        }
        (T::DateTime { fsp: a }, T::DateTime { fsp: b })
        | (T::Timestamp { fsp: a }, T::Timestamp { fsp: b })
        | (T::Time { fsp: a }, T::Time { fsp: b }) => b >= a,
        _ => false,
    }
}
