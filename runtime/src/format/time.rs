//! `strftime` in the local time zone, with bpftrace's `%f` (microseconds).

use std::ffi::CString;

/// Formats nanoseconds since 1970.
#[must_use]
pub fn strftime(format: &str, realtime_ns: i128) -> Vec<u8> {
    let secs = realtime_ns.div_euclid(1_000_000_000);
    let micros = realtime_ns.rem_euclid(1_000_000_000) / 1000;
    // Only a real `%f` is replaced, not the end of `%%f`.
    let mut expanded = String::with_capacity(format.len() + 8);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        expanded.push(c);
        if c != '%' {
            continue;
        }
        match chars.next() {
            Some('f') => {
                expanded.pop();
                expanded.push_str(&format!("{micros:06}"));
            }
            Some(other) => expanded.push(other),
            None => {}
        }
    }
    let Ok(format) = CString::new(expanded) else { return Vec::new() };
    if format.is_empty() {
        return Vec::new();
    }
    let secs = libc::time_t::try_from(secs).unwrap_or(0);
    // SAFETY: tm is plain data (a null zone name is filled in by localtime_r).
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are live for the call.
    if unsafe { libc::localtime_r(&raw const secs, &raw mut tm) }.is_null() {
        return Vec::new();
    }
    let mut out = vec![0u8; 512 + format.as_bytes().len() * 4];
    // SAFETY: the buffer is of the length given, the format is NUL-terminated, tm was filled by localtime_r.
    let len = unsafe { libc::strftime(out.as_mut_ptr().cast(), out.len(), format.as_ptr(), &raw const tm) };
    out.truncate(len);
    out
}

/// Formats the current time, as `time("%H:%M:%S\n")` does.
#[must_use]
pub fn now(format: &str) -> Vec<u8> {
    strftime(format, i128::from(crate::sys::proc::clock_ns(libc::CLOCK_REALTIME)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_and_escapes() {
        assert_eq!(strftime("%s.%f", 1_234_567_890_123_456_789), b"1234567890.123456");
        assert_eq!(strftime("100%%f", 0), b"100%f");
        assert_eq!(strftime("", 0), b"");
    }
}
