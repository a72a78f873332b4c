//! The way along IPv6's extension headers.

use super::headers::{AUTHENTICATION, DESTINATION_OPTIONS, Extension, FRAGMENT, HOP_BY_HOP, ROUTING};
use super::packet::{Reader, Room, Truncated};

/// Extension headers that are followed; behind a longer chain comes nothing that is known.
const EXTENSIONS: u32 = 8;

/// Goes on from the fixed header to what the packet carries: its protocol, and where that starts. Returns `false` for a fragment behind the
/// first: there comes the middle of something.
///
/// What is found stays where the caller has them: what the verifier loses sight of there (in a map's memory), it loses here, too.
#[inline(always)]
pub fn skip_extensions<R: Reader>(packet: &R, proto: &mut u8, offset: &mut usize, fragmented: &mut bool) -> Result<bool, Truncated> {
    for _ in 0..EXTENSIONS {
        if !matches!(*proto, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) {
            break;
        }
        let mut room = Room::new();
        let extension: &Extension = packet.header(*offset, &mut room)?;
        let len = extension.len as usize;
        *offset += match *proto {
            FRAGMENT => {
                *fragmented = true;
                if extension.fragment & 0xfff8_u16.to_be() != 0 {
                    *proto = extension.next_header;
                    return Ok(false);
                }
                8
            }
            // In units of 8 bytes without the first, but of 4 without the first two for authentication.
            AUTHENTICATION => (len + 2) << 2,
            _ => (len + 1) << 3,
        };
        *proto = extension.next_header;
    }
    Ok(true)
}
