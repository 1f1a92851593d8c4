//! Packets between two processes, with descriptors in them (unix(7), SOCK_SEQPACKET, SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// Descriptors in one packet, at most.
const DESCRIPTORS: usize = 8;

/// Bytes in one packet, at most.
const PACKET_MAX: usize = 64 << 10;

/// One end of a way between two processes, which keeps packets apart.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What came in one packet.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, in the order in which they were sent.
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// Whatever socketpair(2) says.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends a packet of 64 KiB and 8 descriptors at most.
    ///
    /// # Errors
    /// The other end is gone, or the packet is too large.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_by(bytes, descriptors, SendFlags::NOSIGNAL)
    }

    /// As [`Channel::send`], and never waits.
    ///
    /// # Errors
    /// As [`Channel::send`]; `WouldBlock` where there is no room.
    pub fn try_send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_by(bytes, descriptors, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn send_by(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> io::Result<()> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags)?;
        Ok(())
    }

    /// Waits for a packet; [`None`] where the other end is gone.
    ///
    /// # Errors
    /// Whatever recvmsg(2) says, or a packet that does not fit.
    pub fn receive(&self) -> io::Result<Option<Packet>> {
        self.receive_by(RecvFlags::CMSG_CLOEXEC)
    }

    /// As [`Channel::receive`], and never waits.
    ///
    /// # Errors
    /// As [`Channel::receive`]; `WouldBlock` where nothing has come.
    pub fn try_receive(&self) -> io::Result<Option<Packet>> {
        self.receive_by(RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
    }

    /// Waits up to `limit` for a packet, or for the end of the other end; whether something is there.
    ///
    /// # Errors
    /// Whatever poll(2) says.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut asked = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut asked, Some(&limit)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Whether nobody has the other end any more. Never waits; where the kernel does not say, it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut asked = [PollFd::new(&self.0, PollFlags::empty())];
        match poll(&mut asked, Some(&Timespec::default())) {
            Ok(_) => asked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
            Err(fault) => fault != Errno::INTR,
        }
    }

    fn receive_by(&self, flags: RecvFlags) -> io::Result<Option<Packet>> {
        let mut bytes = vec![0; PACKET_MAX];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.0, &mut slices, &mut control, flags)?;
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        bytes.truncate(received.bytes);
        Ok(Some(Packet { bytes, descriptors }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn packets_arrive_whole_with_their_descriptors_until_the_other_end_is_gone() {
        let (one, other) = Channel::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        one.send(b"first", &[writer.as_fd()]).unwrap();
        one.send(b"second", &[]).unwrap();
        drop(writer);
        let mut first = other.receive().unwrap().unwrap();
        assert_eq!(first.bytes, b"first");
        let passed = first.descriptors.pop().unwrap();
        std::fs::File::from(passed).write_all(b"by the other").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "by the other");
        assert_eq!(other.receive().unwrap().unwrap().bytes, b"second");
        drop(one);
        assert!(other.receive().unwrap().is_none());
        assert!(other.send(b"to nobody", &[]).is_err());
    }
}
