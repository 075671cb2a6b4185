//! Sizes of memory.

/// `512`, `512M`, `512MiB`, `2g` in MiB, rounded up; a plain number is MiB. `None` if `text` is not a size.
pub fn mib(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let kib = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => Some(number),
        "" | "m" | "mb" | "mib" => number.checked_mul(1 << 10),
        "g" | "gb" | "gib" => number.checked_mul(1 << 20),
        "t" | "tb" | "tib" => number.checked_mul(1 << 30),
        _ => None,
    }?;
    Some(kib.div_ceil(1 << 10))
}

#[cfg(test)]
mod tests {
    use super::mib;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512", Some(512)),
            ("512M", Some(512)),
            ("64MiB", Some(64)),
            ("2g", Some(2048)),
            ("1T", Some(1 << 20)),
            ("1025k", Some(2)),
            ("0", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5G", None),
            ("12x", None),
            ("M", None),
            ("99999999999999999999", None),
            ("18446744073709551615T", None),
        ] {
            assert_eq!(mib(text), expected, "{text}");
        }
    }
}
