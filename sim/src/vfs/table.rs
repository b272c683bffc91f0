//! The C face of the simulated files: the only unsafe code of the workspace.
//!
//! SQLite calls these functions with the file it was given by [`open`], one
//! call at a time per file (a connection is used by one thread at a time).
//! Contract: <https://www.sqlite.org/c3ref/vfs.html> and
//! <https://www.sqlite.org/c3ref/io_methods.html>.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringfence_db::rusqlite::ffi;

use super::files::{self, How, Open};
use super::locks::{Level, SLOTS};

const PATH_BYTES_MAX: c_int = 512;

/// What SQLite allocates for a file (`szOsFile` bytes).
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    /// From `Box::into_raw` in [`open`], taken back in [`close`].
    open: *mut Open,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Makes the simulated files SQLite's default, once per process.
pub(super) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let vfs = ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<File>() as c_int,
            mxPathname: PATH_BYTES_MAX,
            pNext: std::ptr::null_mut(),
            zName: c"ringfence-sim".as_ptr(),
            pAppData: std::ptr::null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: Some(last_error),
            xCurrentTimeInt64: Some(current_time_ms),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        };
        // SAFETY: the table lives for ever (leaked), its functions are those
        // below, and SQLite is initialised by this call itself if it was not.
        let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 1) };
        assert_eq!(code, ffi::SQLITE_OK, "SQLite takes the simulated files");
    });
}

/// The file behind a pointer that SQLite hands back.
///
/// # Safety
/// `file` was filled by [`open`] with success and is not closed; no other
/// reference to it lives.
unsafe fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Open {
    // SAFETY: by the contract above, `open` points to a live box.
    unsafe { &mut *(*file.cast::<File>()).open }
}

/// # Safety
/// `name` is null or a C string that lives during the call.
unsafe fn path_of<'a>(name: *const c_char) -> Option<&'a Path> {
    // SAFETY: by the contract above.
    (!name.is_null()).then(|| Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes())))
}

fn code(result: io::Result<()>, otherwise: c_int) -> c_int {
    match result {
        Ok(()) => ffi::SQLITE_OK,
        Err(e) if e.kind() == ErrorKind::StorageFull => ffi::SQLITE_FULL,
        Err(_) => otherwise,
    }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives a null name or a C string.
    let path = unsafe { path_of(name) };
    let journals = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
    let how = How {
        create: flags & ffi::SQLITE_OPEN_CREATE != 0,
        exclusive: flags & ffi::SQLITE_OPEN_EXCLUSIVE != 0,
        journal: flags & journals != 0,
    };
    let open = path.map_or_else(|| Ok(Open::temporary()), |path| Open::named(path, how));
    let file = file.cast::<File>();
    // SAFETY: `file` has `szOsFile` bytes for us to fill; a file without
    // methods is not closed.
    unsafe {
        (*file).base.pMethods = std::ptr::null();
        let Ok(open) = open else { return ffi::SQLITE_CANTOPEN };
        (*file).open = Box::into_raw(Box::new(open));
        (*file).base.pMethods = &METHODS;
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let file = file.cast::<File>();
    // SAFETY: the box is the one of `open`, and SQLite uses the file no more.
    unsafe {
        drop(Box::from_raw((*file).open));
        (*file).base.pMethods = std::ptr::null();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, buffer: *mut c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: an open file, and a buffer of `len` bytes to be filled.
    let (open, buffer) = unsafe { (opened(file), std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len as usize)) };
    buffer.fill(0);
    match open.read(at as u64, buffer) {
        Ok(n) if n == buffer.len() => ffi::SQLITE_OK,
        Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, bytes: *const c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: an open file, and `len` bytes to be written.
    let (open, bytes) = unsafe { (opened(file), std::slice::from_raw_parts(bytes.cast::<u8>(), len as usize)) };
    code(open.write(at as u64, bytes), ffi::SQLITE_IOERR_WRITE)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    // SAFETY: an open file.
    code(unsafe { opened(file) }.truncate(len as u64), ffi::SQLITE_IOERR_TRUNCATE)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: an open file.
    code(unsafe { opened(file) }.sync(), ffi::SQLITE_IOERR_FSYNC)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: an open file, and a place for the answer.
    match unsafe { opened(file) }.len() {
        Ok(len) => {
            // SAFETY: as above.
            unsafe { *out = len as i64 };
            ffi::SQLITE_OK
        }
        Err(_) => ffi::SQLITE_IOERR_FSTAT,
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: an open file.
    let done = unsafe { opened(file) }.raise(Level::from_code(level));
    if done { ffi::SQLITE_OK } else { ffi::SQLITE_BUSY }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: an open file.
    unsafe { opened(file) }.lower(Level::from_code(level));
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: an open file, and a place for the answer.
    unsafe { *out = c_int::from(opened(file).is_reserved()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

/// As the unix VFS says: a write harms no byte beside it.
unsafe extern "C" fn characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    index: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: an open file, and a place for the answer. The region lives as
    // long as a connection has joined its index, so longer than the pointer.
    unsafe {
        let region = opened(file).shm_region(index as usize, bytes as usize, extend != 0);
        *out = region.map_or(std::ptr::null_mut(), <*mut u64>::cast);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, first: c_int, n: c_int, flags: c_int) -> c_int {
    let slots = first as usize..(first + n) as usize;
    assert!(slots.end <= SLOTS, "SQLite uses slots 0 to 7");
    // SAFETY: an open file.
    let open = unsafe { opened(file) };
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        open.shm_unlock(slots);
        return ffi::SQLITE_OK;
    }
    let done = open.shm_lock(slots, flags & ffi::SQLITE_SHM_EXCLUSIVE != 0);
    if done { ffi::SQLITE_OK } else { ffi::SQLITE_BUSY }
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: an open file.
    unsafe { opened(file) }.shm_barrier();
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: an open file.
    unsafe { opened(file) }.shm_leave();
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, durable: c_int) -> c_int {
    // SAFETY: a C string.
    let Some(path) = (unsafe { path_of(name) }) else { return ffi::SQLITE_IOERR_DELETE };
    match files::delete(path, durable != 0) {
        Err(e) if e.kind() == ErrorKind::NotFound => ffi::SQLITE_IOERR_DELETE_NOENT,
        other => code(other, ffi::SQLITE_IOERR_DELETE),
    }
}

unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, name: *const c_char, _: c_int, out: *mut c_int) -> c_int {
    // SAFETY: a C string, and a place for the answer.
    unsafe { *out = c_int::from(path_of(name).is_some_and(files::exists)) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: a C string.
    let bytes = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if bytes.len() > room as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: `out` has `room` bytes, at least as many as are copied; the two
    // do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len()) };
    ffi::SQLITE_OK
}

/// The same bytes in every run of the process, never the same twice in one.
unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    static STEP: AtomicU64 = AtomicU64::new(0);
    // SAFETY: `out` has `len` bytes to be filled.
    let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), len as usize) };
    let mut chance = crate::chance::Chance::new(STEP.fetch_add(1, Ordering::Relaxed));
    chance.fill(out);
    len
}

/// SQLite waits so for a lock that another connection holds.
unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    std::thread::park_timeout(Duration::from_micros(micros.unsigned_abs().into()));
    micros
}

/// Milliseconds of the Julian day of the simulated epoch, 2033-05-18.
const NOW_JULIAN_MS: i64 = 210_866_760_000_000 + 2_000_000_000_000;

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: a place for the answer.
    unsafe { *out = NOW_JULIAN_MS as f64 / 86_400_000.0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time_ms(_: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: a place for the answer.
    unsafe { *out = NOW_JULIAN_MS };
    ffi::SQLITE_OK
}

unsafe extern "C" fn last_error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}
