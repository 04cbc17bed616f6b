//! The image of sandboxes: one program that does nothing, so small that the worker carries it and needs no registry.
//!
//! The program is a few instructions behind the header that Linux wants, and waits for a signal, for ever. As the first
//! process of its container it is deaf to every signal but the one that nothing survives.

use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use futures_util::stream::TryStreamExt;

use super::RuntimeError;
use super::docker::Docker;
use super::docker_error::status;

/// The image's name. It is never pulled: nothing of this name has to be in any registry.
pub(super) const IMAGE: &str = "longshore-pause:1";
/// The program in it.
const PATH: &str = "pause";

/// ELF's number of the processor and the program, for the processors that there is one for.
const PROGRAM: Option<(u16, &[u8])> = if cfg!(target_arch = "x86_64") {
    Some((X86_64, &PAUSE_X86_64))
} else if cfg!(target_arch = "aarch64") {
    Some((AARCH64, &PAUSE_AARCH64))
} else {
    None
};

const X86_64: u16 = 62;
const PAUSE_X86_64: [u8; 9] = [
    0xb8, 0x22, 0x00, 0x00, 0x00, // again: mov eax, 34  (pause)
    0x0f, 0x05, //                         syscall
    0xeb, 0xf7, //                         jmp again
];

const AARCH64: u16 = 183;
/// This processor's Linux has no `pause`: it polls nothing, without an end.
const PAUSE_AARCH64: [u8; 32] = [
    0x00, 0x00, 0x80, 0xd2, // again: mov x0, #0   (no files)
    0x01, 0x00, 0x80, 0xd2, //        mov x1, #0   (none of them)
    0x02, 0x00, 0x80, 0xd2, //        mov x2, #0   (no end)
    0x03, 0x00, 0x80, 0xd2, //        mov x3, #0   (no mask)
    0x04, 0x00, 0x80, 0xd2, //        mov x4, #0
    0x28, 0x09, 0x80, 0xd2, //        mov x8, #73  (ppoll)
    0x01, 0x00, 0x00, 0xd4, //        svc #0
    0xf9, 0xff, 0xff, 0x17, //        b again
];

/// Whether sandboxes can be made on this processor.
pub(super) fn is_possible() -> bool {
    PROGRAM.is_some()
}

/// Makes the image, unless it is there.
pub(super) async fn ensure(docker: &Docker) -> Result<(), RuntimeError> {
    let client = docker.client()?;
    match client.inspect_image(IMAGE).await {
        Ok(_) => return Ok(()),
        Err(error) if status(&error) == Some(404) => {}
        Err(error) => return Err(docker.explain(&error, "looking for the image of sandboxes")),
    }
    let Some((machine, code)) = PROGRAM else {
        return Err(RuntimeError::Forbidden("there are no sandboxes on this processor".to_owned()));
    };
    let (name, tag) = IMAGE.split_once(':').unwrap_or((IMAGE, "latest"));
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(name)
        .tag(tag)
        .changes(vec![format!("ENTRYPOINT [\"/{PATH}\"]"), "USER 65534:65534".to_owned()])
        .build();
    let archive = bollard::body_full(Bytes::from(archive(PATH, &program(machine, code))));
    let made: Result<Vec<_>, _> =
        client.create_image(Some(options), Some(archive), None).try_collect().await;
    made.map(drop).map_err(|error| docker.explain(&error, "making the image of sandboxes"))
}

/// A program for Linux from its instructions: the header, one segment that is all of the file, and the code.
fn program(machine: u16, code: &[u8]) -> Vec<u8> {
    const HEADER_BYTES: u16 = 64;
    const SEGMENT_BYTES: u16 = 56;
    const ADDRESS: u64 = 0x40_0000;
    let code_at = u64::from(HEADER_BYTES + SEGMENT_BYTES);
    let file_bytes = code_at + u64::try_from(code.len()).unwrap_or(u64::MAX);
    let mut file = Vec::new();
    // 64 bits, the lowest byte first, version 1, any system.
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(2u16.to_le_bytes()); // a program at a fixed address
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes()); // version
    file.extend((ADDRESS + code_at).to_le_bytes()); // where it begins
    file.extend(u64::from(HEADER_BYTES).to_le_bytes()); // where the segments are listed
    file.extend(0u64.to_le_bytes()); // no sections
    file.extend(0u32.to_le_bytes()); // no flags
    file.extend(HEADER_BYTES.to_le_bytes());
    file.extend(SEGMENT_BYTES.to_le_bytes());
    file.extend(1u16.to_le_bytes()); // one segment
    file.extend([0; 6]); // no sections
    file.extend(1u32.to_le_bytes()); // to be loaded
    file.extend(5u32.to_le_bytes()); // to be read and executed
    file.extend(0u64.to_le_bytes()); // from the file's beginning
    file.extend(ADDRESS.to_le_bytes());
    file.extend(ADDRESS.to_le_bytes());
    file.extend(file_bytes.to_le_bytes()); // so much of the file
    file.extend(file_bytes.to_le_bytes()); // so much of the memory
    file.extend(0x1_0000u64.to_le_bytes()); // as large as the largest page
    file.extend(code);
    file
}

/// A tar archive with one file that everybody may execute.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut header = [0u8; BLOCK];
    let mut put = |at: usize, text: &str| {
        for (place, byte) in header.iter_mut().skip(at).zip(text.bytes()) {
            *place = byte;
        }
    };
    put(0, name);
    put(100, "0000755\0"); // mode
    put(108, "0000000\0"); // user
    put(116, "0000000\0"); // group
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0"); // when
    put(148, "        "); // the sum counts itself as blanks
    put(156, "0"); // a file
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    for (place, byte) in header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *place = byte;
    }
    let mut archive = header.to_vec();
    archive.extend(content);
    // To a whole block, and two empty ones for the end.
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    archive
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// What the kernel says of a process: the letter of its state.
    fn state(pid: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[tokio::test]
    async fn the_program_waits_and_takes_no_time() {
        let Some((machine, code)) = PROGRAM else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PATH);
        std::fs::write(&path, program(machine, code)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).stdin(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        // Asleep in its one call, for ever.
        let call = if machine == X86_64 { "34 " } else { "73 " };
        let waits = |pid: u32| {
            let found = std::fs::read_to_string(format!("/proc/{pid}/syscall"));
            state(pid) == Some('S') && found.map_or(true, |found| found.starts_with(call))
        };
        while !waits(child.id()) && Instant::now() < end {
            assert_eq!(child.try_wait().unwrap(), None, "it has ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let waited = waits(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(waited, "it does not wait");
    }

    #[test]
    fn the_program_of_each_processor_goes_back_to_its_beginning() {
        let (x86, arm) = (program(X86_64, &PAUSE_X86_64), program(AARCH64, &PAUSE_AARCH64));
        assert_eq!((x86.len(), arm.len()), (129, 152));
        assert_eq!((x86[18], arm[18]), (62, 183));
        // The last instruction jumps over all of the code: in bytes from its end there, in words from itself here.
        assert_eq!(i8::from_le_bytes([PAUSE_X86_64[8]]), -9);
        let branch = u32::from_le_bytes(PAUSE_AARCH64[28..].try_into().unwrap());
        assert_eq!((branch >> 26, (branch & 0x03ff_ffff) | 0xfc00_0000), (0b00_0101, -7i32 as u32));
    }

    #[test]
    fn the_archive_is_what_tar_expects() {
        let archive = archive("pause", b"hello");
        assert_eq!(archive.len(), 4 * 512);
        let listed = {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.tar");
            std::fs::write(&path, &archive).unwrap();
            Command::new("tar").arg("-tvf").arg(&path).output().unwrap()
        };
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(
            listed.starts_with("-rwxr-xr-x") && listed.trim_end().ends_with("pause"),
            "{listed}"
        );
    }
}
