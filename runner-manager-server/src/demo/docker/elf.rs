//! What a Linux executable needs to run elsewhere: its interpreter and its shared libraries.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

/// `PT_INTERP`, the segment that names the interpreter (`man 5 elf`).
const PT_INTERP: u32 = 3;

/// The interpreter that an executable asks for, which loads its libraries; none where it needs neither.
///
/// # Errors
/// When it is not a 64-bit little-endian ELF file.
pub(super) fn interpreter(executable: &mut File) -> anyhow::Result<Option<PathBuf>> {
    let header = read_at::<64>(executable, 0).context("the executable is too short")?;
    ensure!(header[..6] == *b"\x7fELF\x02\x01", "the executable is not a 64-bit little-endian ELF file");
    let (table, size, count) = (number(&header[32..40]), number(&header[54..56]), number(&header[56..58]));
    for at in 0..count {
        let segment = read_at::<56>(executable, table + at * size).context("a program header is missing")?;
        if number(&segment[..4]) == u64::from(PT_INTERP) {
            let (offset, length) = (number(&segment[8..16]), number(&segment[32..40]));
            ensure!(length <= 4096, "the interpreter's path is too long");
            executable.seek(SeekFrom::Start(offset))?;
            let mut path = String::new();
            executable.take(length).read_to_string(&mut path)?;
            return Ok(Some(PathBuf::from(path.trim_end_matches('\0'))));
        }
    }
    Ok(None)
}

/// The shared libraries that an executable loads, as its interpreter finds them: the name that it asks for, and
/// the file.
///
/// # Errors
/// When the interpreter does not list them, or does not find one.
pub(super) async fn libraries(
    interpreter: &Path,
    executable: &Path,
) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut command = Command::new(interpreter);
    command.arg("--list").arg(executable).stdin(Stdio::null()).kill_on_drop(true);
    let listed =
        command.output().await.with_context(|| format!("{} cannot be run", interpreter.display()))?;
    if !listed.status.success() {
        bail!("{} cannot list the libraries of {}", interpreter.display(), executable.display());
    }
    String::from_utf8_lossy(&listed.stdout).lines().filter_map(library).collect()
}

/// One line, such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f...)`. Lines without an arrow are of
/// the kernel's own library and of the interpreter.
fn library(line: &str) -> Option<anyhow::Result<(String, PathBuf)>> {
    let (name, place) = line.trim().split_once(" => ")?;
    let path = place.split(" (").next().unwrap_or(place).trim();
    Some(if path.starts_with('/') {
        Ok((name.to_owned(), PathBuf::from(path)))
    } else {
        Err(anyhow::anyhow!("the library {name} is not found"))
    })
}

fn read_at<const N: usize>(file: &mut File, offset: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A little-endian number of up to 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::path::{Path, PathBuf};

    use super::{interpreter, libraries, library};

    #[tokio::test]
    async fn our_own_libraries_are_found() {
        let mut executable = File::open("/proc/self/exe").unwrap();
        let Some(interpreter) = interpreter(&mut executable).unwrap() else { return };
        assert!(interpreter.is_absolute() && interpreter.exists(), "{}", interpreter.display());
        let path = std::fs::read_link("/proc/self/exe").unwrap();
        let libraries = libraries(&interpreter, Path::new(&path)).await.unwrap();
        assert!(libraries.iter().all(|(_, path)| path.exists()), "{libraries:?}");
        assert!(libraries.iter().any(|(name, _)| name.starts_with("libc.")), "{libraries:?}");
    }

    #[test]
    fn a_file_that_is_no_executable_is_told() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[b'#'; 100]).unwrap();
        assert!(interpreter(&mut file).unwrap_err().to_string().contains("not a 64-bit"));
    }

    #[test]
    fn lines_of_a_listing_read() {
        let found = library("\tlibm.so.6 => /lib/libm.so.6 (0x00007f)").unwrap().unwrap();
        assert_eq!(found, ("libm.so.6".to_owned(), PathBuf::from("/lib/libm.so.6")));
        assert!(library("\tlinux-vdso.so.1 (0x00007ffd)").is_none());
        assert!(library("\tlibx.so => not found").unwrap().is_err());
    }
}
