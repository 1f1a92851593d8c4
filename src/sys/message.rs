//! recvmsg(2) and sendmsg(2), with the control messages (cmsg(3)) that come and go beside the bytes:
//! the one place that knows how these are laid out.

use std::ffi::c_int;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{io, iter, mem, ptr};

/// What headers and data begin at a multiple of (CMSG_ALIGN).
const ALIGN: usize = size_of::<usize>();

/// Bytes of a header (CMSG_LEN of nothing): a length as the kernel writes it, a level, a type.
const HEAD: usize = ALIGN + 8;

/// Bytes of a `sockaddr_storage`, which holds an address of any family.
const NAME: usize = size_of::<libc::sockaddr_storage>();

/// Room for control messages, with the alignment of their headers.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control<const ROOM: usize> {
    bytes: [u8; ROOM],
    used: usize,
}

impl<const ROOM: usize> Control<ROOM> {
    /// Without a message.
    pub(super) const EMPTY: Self = Self { bytes: [0; ROOM], used: 0 };

    /// Adds a message; one that has no room left is not sent.
    pub(super) fn put(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let space = HEAD + data.len().next_multiple_of(ALIGN);
        let Some(room) = self.bytes.get_mut(self.used..self.used + space) else { return };
        room[..ALIGN].copy_from_slice(&(HEAD + data.len()).to_ne_bytes());
        room[ALIGN..ALIGN + 4].copy_from_slice(&level.to_ne_bytes());
        room[ALIGN + 4..HEAD].copy_from_slice(&kind.to_ne_bytes());
        room[HEAD..HEAD + data.len()].copy_from_slice(data);
        self.used += space;
    }

    /// The integer of the first message, where it is of this level and type.
    #[inline]
    pub(super) fn integer(&self, level: c_int, kind: c_int) -> Option<c_int> {
        let whole = self.bytes.first_chunk::<{ HEAD + 4 }>()?;
        let (head, value) = whole.split_at(HEAD);
        let is_whole = usize::from_ne_bytes(*head.first_chunk()?) >= whole.len();
        let own = c_int::from_ne_bytes(*head[ALIGN..].first_chunk()?) == level
            && c_int::from_ne_bytes(*head[ALIGN + 4..].first_chunk()?) == kind;
        (is_whole && own).then_some(c_int::from_ne_bytes(*value.first_chunk()?))
    }

    /// Level, type and data of each message. What is cut off is not a message.
    #[inline]
    pub(super) fn messages(&self) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
        let mut rest = self.bytes.get(..self.used).unwrap_or_default();
        iter::from_fn(move || {
            let head = rest.first_chunk::<HEAD>()?;
            let length = usize::from_ne_bytes(*head.first_chunk()?);
            let level = c_int::from_ne_bytes(*head[ALIGN..].first_chunk()?);
            let kind = c_int::from_ne_bytes(*head[ALIGN + 4..].first_chunk()?);
            let data = rest.get(HEAD..length)?;
            rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
            Some((level, kind, data))
        })
    }
}

/// Room for the address of a sender.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Name([u8; NAME]);

impl Name {
    /// Nobody's.
    pub(super) const EMPTY: Self = Self([0; NAME]);

    /// The address in canonical form; `None` for one of another family.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        address(&self.0)
    }
}

/// A header without address, data and control.
fn header() -> libc::msghdr {
    // SAFETY: plain data for which zeros are a value.
    unsafe { mem::zeroed() }
}

fn socklen(length: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(length).unwrap_or_default()
}

/// Reads into `bytes`, says how many it read, and fills `control` and, where it is wanted, `from`.
///
/// # Errors
/// As recvmsg(2).
#[inline]
pub(super) fn receive<const ROOM: usize>(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    from: Option<&mut Name>,
    control: &mut Control<ROOM>,
    flags: c_int,
) -> io::Result<usize> {
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut header = header();
    if let Some(from) = from {
        header.msg_name = from.0.as_mut_ptr().cast();
        header.msg_namelen = socklen(NAME);
    }
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.bytes.as_mut_ptr().cast();
    header.msg_controllen = ROOM as _;
    // SAFETY: the header names an address, a vector, a buffer and a control buffer that outlive the
    // call, with their lengths.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    control.used = header.msg_controllen;
    Ok(read)
}

/// Reads messages as far as there are some, each into `SLOT` bytes of `bytes`, without waiting, and
/// says how many; of each its length, who sent it and what came beside it.
///
/// # Errors
/// As recvmmsg(2); `WouldBlock` where nothing has arrived.
#[inline]
pub(super) fn receive_batch<const SLOT: usize, const ROOM: usize, const COUNT: usize>(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    lengths: &mut [usize; COUNT],
    from: &mut [Name; COUNT],
    controls: &mut [Control<ROOM>; COUNT],
) -> io::Result<usize> {
    let mut headers = [libc::mmsghdr { msg_hdr: header(), msg_len: 0 }; COUNT];
    let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; COUNT];
    let slots = bytes.chunks_exact_mut(SLOT);
    for ((((header, vector), name), control), slot) in headers
        .iter_mut()
        .zip(&mut vectors)
        .zip(from.iter_mut())
        .zip(controls.iter_mut())
        .zip(slots)
    {
        vector.iov_base = slot.as_mut_ptr().cast();
        vector.iov_len = slot.len();
        header.msg_hdr.msg_name = name.0.as_mut_ptr().cast();
        header.msg_hdr.msg_namelen = socklen(NAME);
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = control.bytes.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = ROOM as _;
    }
    // SAFETY: each of the `COUNT` headers names an address, a vector, a slot and a control buffer
    // of its own, which outlive the call, with their lengths; one that has no slot has none of
    // these, and takes nothing.
    let taken = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            COUNT as _,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let taken = usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
    let known = lengths.iter_mut().zip(controls);
    for ((length, control), header) in known.zip(&headers).take(taken) {
        *length = header.msg_len as usize;
        control.used = header.msg_hdr.msg_controllen;
    }
    Ok(taken)
}

/// Sends one message, without waiting and without a signal; `to`: where the socket is not connected.
///
/// # Errors
/// As sendmsg(2).
#[inline]
pub(super) fn send<const ROOM: usize>(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: Option<&socket2::SockAddr>,
    control: &Control<ROOM>,
) -> io::Result<()> {
    let mut vector =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = header();
    if let Some(to) = to {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len();
    }
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    if control.used > 0 {
        header.msg_control = control.bytes.as_ptr().cast_mut().cast();
        header.msg_controllen = control.used as _;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header names an address, a vector, bytes and a control buffer that outlive the
    // call, with their lengths; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A `sockaddr_in` or `sockaddr_in6` in canonical form; scopes are kept for link-local addresses.
pub(super) fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match c_int::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(match Ipv6Addr::from(ip).to_canonical() {
                IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
                v4 @ IpAddr::V4(_) => SocketAddr::new(v4, port),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_read_back_and_what_has_no_room_is_left_out() {
        let mut control = Control::<64>::EMPTY;
        assert_eq!(control.messages().count(), 0);
        control.put(1, 2, b"abc");
        control.put(-3, 4, b"12345678");
        control.put(5, 6, b"too long for what is left of it");
        let found: Vec<_> = control.messages().collect();
        assert_eq!(found, [(1, 2, &b"abc"[..]), (-3, 4, b"12345678")]);
    }

    #[test]
    fn a_length_that_makes_no_sense_ends_the_messages() {
        for length in [0, HEAD - 1, 65, usize::MAX] {
            let mut control = Control::<64>::EMPTY;
            control.put(1, 2, b"abc");
            control.bytes[..ALIGN].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(control.messages().count(), 0, "{length}");
        }
        let mut control = Control::<64>::EMPTY;
        control.used = 1 << 20;
        assert_eq!(control.messages().count(), 0);
    }

    #[test]
    fn an_integer_is_read_of_its_own_level_and_type_alone() {
        let mut control = Control::<64>::EMPTY;
        assert_eq!(control.integer(0, 0), None, "there is no message");
        control.put(6, 36, &7_i32.to_ne_bytes());
        assert_eq!(control.integer(6, 36), Some(7));
        assert_eq!((control.integer(6, 35), control.integer(5, 36)), (None, None));
        control.bytes[..ALIGN].copy_from_slice(&(HEAD + 3).to_ne_bytes());
        assert_eq!(control.integer(6, 36), None, "it was cut off");
    }

    #[test]
    fn what_is_not_an_internet_address_is_none() {
        assert_eq!(address(&[]), None);
        assert_eq!(address(&[1, 0, 0, 80, 127, 0, 0, 1]), None);
        assert_eq!(address(&[2, 0, 0, 80, 127]), None);
        assert_eq!(Name::EMPTY.address(), None);
    }
}
