//! Native stacks from registers and a copy of the stack, by the files' unwind tables (framehop).

use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder as _};

use super::image::{Section, SectionBytes};
use super::modules::{self, Images, Modules};
use super::names::Names;

pub(super) use arch::Cache;

/// Longer native stacks are cut: more than a recursion of a thousand calls has up to 3.10, where each is four C calls.
const FRAME_LIMIT: usize = 16384;

/// Registers and a copy of the stack of a thread, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct NativeStack<'a> {
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub bp: u64,
    /// Link register (arm64).
    pub lr: u64,
    /// Stack bytes from `sp` upward.
    pub bytes: &'a [u8],
}

/// One frame of a native stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NativeFrame {
    /// Inside the instruction being executed, for looking it up.
    pub(super) address: u64,
    /// Stack pointer in this frame.
    pub(super) low: u64,
    /// Stack pointer in its caller; absent when unwinding failed here.
    pub(super) high: Option<u64>,
}

/// An unwound stack, leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unwound {
    pub(super) frames: Vec<NativeFrame>,
    /// The outermost frame was reached.
    pub(super) complete: bool,
}

/// Unwinder of one process.
#[derive(Default)]
pub(super) struct ProcessUnwinder {
    unwinder: arch::Unwinder<SectionBytes>,
    loaded: Vec<u64>,
    generation: u32,
}

impl ProcessUnwinder {
    /// Unwinds `stack`; reads the process's mappings again when an address is outside of them.
    pub(super) fn unwind(
        &mut self,
        stack: &NativeStack<'_>,
        modules: &mut Modules,
        images: &mut Images,
        names: &mut Names,
        cache: &mut Cache,
    ) -> Unwound {
        let mut read_stack = |address: u64| {
            let at = usize::try_from(address.checked_sub(stack.sp).ok_or(())?).map_err(|_| ())?;
            let bytes = stack.bytes.get(at..).and_then(|bytes| bytes.first_chunk()).ok_or(())?;
            Ok(u64::from_le_bytes(*bytes))
        };
        let mut registers = arch::registers(stack);
        let mut address = FrameAddress::from_instruction_pointer(stack.ip);
        let mut frames = Vec::new();
        while frames.len() < FRAME_LIMIT {
            let (lookup, low) = (address.address_for_lookup(), registers.sp());
            modules.refresh_for(lookup, images, names);
            self.follow(modules);
            let caller = self.unwinder.unwind_frame(address, &mut registers, cache, &mut read_stack);
            let high = match caller {
                Ok(Some(_)) => Some(registers.sp()),
                Ok(None) => Some(u64::MAX),
                Err(_) => None,
            };
            frames.push(NativeFrame { address: lookup, low, high });
            match caller.map(|address| address.and_then(FrameAddress::from_return_address)) {
                Ok(Some(caller)) => address = caller,
                Ok(None) => return Unwound { frames, complete: true },
                Err(_) => break,
            }
        }
        Unwound { frames, complete: false }
    }

    /// Takes over the mappings if they were read again.
    fn follow(&mut self, modules: &Modules) {
        if self.generation == modules.generation() {
            return;
        }
        self.generation = modules.generation();
        for start in self.loaded.drain(..) {
            self.unwinder.remove_module(start);
        }
        for module in modules.iter() {
            if let Some(unwindable) = unwindable(module) {
                self.unwinder.add_module(unwindable);
                self.loaded.push(module.range.start);
            }
        }
    }
}

fn unwindable(module: &modules::Module) -> Option<Module<SectionBytes>> {
    let image = module.image.as_ref()?;
    let bias = module.range.start.wrapping_sub(image.address_of(module.offset)?);
    let sections = image.sections();
    let (eh_frame_svma, eh_frame) = split(sections.eh_frame.as_ref());
    let (eh_frame_hdr_svma, eh_frame_hdr) = split(sections.eh_frame_hdr.as_ref());
    let info = ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: sections.text.clone(),
        got_svma: sections.got.clone(),
        eh_frame_svma,
        eh_frame,
        eh_frame_hdr_svma,
        eh_frame_hdr,
        text: None,
        stubs_svma: None,
        stub_helper_svma: None,
        unwind_info: None,
        debug_frame: None,
        text_segment_svma: None,
        text_segment: None,
    };
    Some(Module::new(module.path.to_string(), module.range.clone(), bias, info))
}

fn split(section: Option<&Section>) -> (Option<std::ops::Range<u64>>, Option<SectionBytes>) {
    section.map(|section| (section.addresses.clone(), section.bytes.clone())).unzip()
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};

    pub(super) type Unwinder<D> = UnwinderX86_64<D>;
    pub(in crate::symbol) type Cache = CacheX86_64;

    pub(super) fn registers(stack: &super::NativeStack<'_>) -> UnwindRegsX86_64 {
        UnwindRegsX86_64::new(stack.ip, stack.sp, stack.bp)
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use framehop::aarch64::{CacheAarch64, PtrAuthMask, UnwindRegsAarch64, UnwinderAarch64};

    pub(super) type Unwinder<D> = UnwinderAarch64<D>;
    pub(in crate::symbol) type Cache = CacheAarch64;

    pub(super) fn registers(stack: &super::NativeStack<'_>) -> UnwindRegsAarch64 {
        // 48-bit user addresses leave the bits above for pointer authentication.
        UnwindRegsAarch64::new_with_ptr_auth_mask(PtrAuthMask((1 << 48) - 1), stack.lr, stack.sp, stack.bp)
    }
}
