//! Where the running build keeps its globals, asked from its own machine code.
//!
//! Small exported functions return or use exactly one global: `PyInterpreterState_Head()` loads `interpreters.head`,
//! `_PyThreadState_GetCurrent()` the thread-local current thread state. Decoding them gives the address whatever the
//! patch level, compiler or distribution, in stripped builds too. x86_64 only; elsewhere every answer is None and the
//! table of [`super::offsets`] is the only hint.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::discover::Image;
use super::layout::Tls;
use super::version::Version;
use crate::target::memory::Memory;

/// Decoded at most of one function, bytes: all of them are shorter.
const LONGEST_FUNCTION: u64 = 512;

/// What one instruction does that matters here. Addresses are the process's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Reads `size` bytes into the (full) register.
    Load {
        address: u64,
        size: usize,
        into: Register,
    },
    /// Writes the constant `value`.
    Store {
        address: u64,
        size: usize,
        value: u64,
    },
    /// Reads a thread-local variable at this distance from the thread pointer.
    ThreadLoad {
        offset: i64,
    },
    /// Makes an address or another constant.
    Constant {
        value: u64,
    },
    /// Calls or jumps to another function with this first argument, when it is a known address.
    Leave {
        first_argument: Option<u64>,
    },
    Return,
}

/// Follows straight through a function with the register values that are known for sure.
struct Tracer<'a> {
    memory: &'a Memory,
    registers: [Option<u64>; 16],
}

impl Tracer<'_> {
    fn get(&self, register: Register) -> Option<u64> {
        if register.is_gpr() { self.registers[register.full_register().number()] } else { None }
    }

    fn set(&mut self, register: Register, value: Option<u64>) {
        if register.is_gpr() {
            self.registers[register.full_register().number()] = value;
        }
    }

    /// Address of the memory operand, if everything it is made of is known.
    fn address(&self, instruction: &Instruction) -> Option<u64> {
        if instruction.is_ip_rel_memory_operand() {
            return Some(instruction.ip_rel_memory_address());
        }
        if instruction.memory_index() != Register::None {
            return None;
        }
        let base = match instruction.memory_base() {
            Register::None => 0,
            register => self.get(register)?,
        };
        Some(base.wrapping_add(instruction.memory_displacement64()))
    }

    fn step(&mut self, instruction: &Instruction) -> Option<Step> {
        use FlowControl::{Call, IndirectBranch, IndirectCall, Return, UnconditionalBranch};
        match instruction.flow_control() {
            Return => Some(Step::Return),
            Call | IndirectCall | UnconditionalBranch | IndirectBranch => Some(self.leave()),
            _ => match instruction.mnemonic() {
                Mnemonic::Mov => self.mov(instruction),
                Mnemonic::Lea => self.assign(instruction, self.address(instruction)),
                Mnemonic::Add => {
                    let sum = self.get(instruction.op0_register()).zip(instruction.try_immediate(1).ok());
                    self.assign(instruction, sum.map(|(a, b)| a.wrapping_add(b)))
                }
                Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push => None,
                _ => self.assign(instruction, None),
            },
        }
    }

    /// A call may change every register that the System V ABI does not preserve.
    fn leave(&mut self) -> Step {
        use Register::{R8, R9, R10, R11, RAX, RCX, RDI, RDX, RSI};
        let first_argument = self.get(RDI);
        for clobbered in [RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11] {
            self.set(clobbered, None);
        }
        Step::Leave { first_argument }
    }

    fn assign(&mut self, instruction: &Instruction, value: Option<u64>) -> Option<Step> {
        if instruction.op0_kind() != OpKind::Register {
            return None;
        }
        self.set(instruction.op0_register(), value);
        value.map(|value| Step::Constant { value })
    }

    fn mov(&mut self, instruction: &Instruction) -> Option<Step> {
        let size = instruction.memory_size().size();
        let (to, from) = (instruction.op0_kind(), instruction.op1_kind());
        if to == OpKind::Memory {
            let value = instruction.try_immediate(1).ok()?;
            return self.address(instruction).map(|address| Step::Store { address, size, value });
        }
        match from {
            OpKind::Memory => {
                let address = self.address(instruction);
                if instruction.segment_prefix() == Register::FS {
                    self.set(instruction.op0_register(), None);
                    return address.map(|offset| Step::ThreadLoad { offset: offset as i64 });
                }
                // A global offset table entry: what it holds is an address to go on with.
                let value = address.filter(|_| size == 8).and_then(|address| self.memory.u64(address).ok());
                self.set(instruction.op0_register(), value);
                address.map(|address| Step::Load { address, size, into: instruction.op0_register().full_register() })
            }
            OpKind::Register => {
                let value = self.get(instruction.op1_register());
                self.set(instruction.op0_register(), value);
                None
            }
            _ => self.assign(instruction, instruction.try_immediate(1).ok()),
        }
    }
}

fn steps(memory: &Memory, code: &[u8], address: u64) -> Vec<Step> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut tracer = Tracer { memory, registers: [None; 16] };
    let mut found = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.code() == Code::INVALID {
            break;
        }
        found.extend(tracer.step(&instruction));
    }
    found
}

fn function(memory: &Memory, image: &Image, name: &str) -> Option<Vec<Step>> {
    if image.elf.machine != object::elf::EM_X86_64.0 {
        return None;
    }
    let symbol = image.symbol(name)?;
    let length = if symbol.size == 0 { 64 } else { symbol.size.min(LONGEST_FUNCTION) };
    let address = image.bias.wrapping_add(symbol.address);
    let code = memory.bytes(address, length as usize).ok()?;
    Some(steps(memory, &code, address))
}

/// Address of the global pointer that the function `name` returns.
pub(super) fn returned_global(memory: &Memory, image: &Image, name: &str) -> Option<u64> {
    returned(&function(memory, image, name)?)
}

fn returned(steps: &[Step]) -> Option<u64> {
    let end = steps.iter().position(|step| matches!(step, Step::Return))?;
    let body = &steps[..end];
    if body.iter().any(|step| matches!(step, Step::Leave { .. })) {
        return None;
    }
    body.iter().rev().find_map(|step| match step {
        Step::Load { address, size: 8, into: Register::RAX } => Some(*address),
        _ => None,
    })
}

/// Address of the number of the key under which the interpreter files thread states, from
/// `PyGILState_GetThisThreadState()`: either it loads the number itself, or it passes a `Py_tss_t`.
pub(super) fn tss_key(memory: &Memory, image: &Image) -> Option<u64> {
    let mut loaded = None;
    for step in function(memory, image, "PyGILState_GetThisThreadState")? {
        match step {
            Step::Load { address, size: 4, into: Register::RDI } => loaded = Some(address),
            // Py_tss_t (Include/pythread.h): is_initialized, then the key.
            Step::Leave { first_argument } => match loaded.or(first_argument.map(|pointer| pointer + 4)) {
                Some(key) => return Some(key),
                None => continue,
            },
            _ => {}
        }
    }
    None
}

/// Address of the collector's `collecting` flag: what `PyGC_Collect()` sets to 1 (3.6 to 3.8).
pub(super) fn gc_collecting(memory: &Memory, image: &Image) -> Option<u64> {
    function(memory, image, "PyGC_Collect")?.into_iter().find_map(|step| match step {
        Step::Store { address, size: 4, value: 1 } => Some(address),
        _ => None,
    })
}

/// The version string that `Py_GetVersion()` formats.
pub(super) fn version(memory: &Memory, image: &Image) -> Option<Version> {
    function(memory, image, "Py_GetVersion")?.into_iter().find_map(|step| {
        let Step::Constant { value } = step else { return None };
        let bytes = memory.bytes(value, 24).ok()?;
        let text: String = bytes.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect();
        Version::from_text(&text)
    })
}

/// How the function `name` reaches the thread-local variable it returns; `gilstate_offset` stays 0.
pub(super) fn thread_local(memory: &Memory, image: &Image, name: &str) -> Tls {
    let Some(steps) = function(memory, image, name) else { return Tls::None };
    for step in steps {
        match step {
            Step::ThreadLoad { offset } => return Tls::Static { offset, gilstate_offset: 0 },
            // __tls_get_addr(&tls_index): module and offset, filled in by the dynamic linker.
            Step::Leave { first_argument: Some(index) } => {
                let (Ok(module), Ok(offset)) = (memory.u64(index), memory.u64(index + 8)) else { return Tls::None };
                return match u32::try_from(module) {
                    Ok(module @ 1..=4096) => Tls::Dynamic { module, offset: offset as i64, gilstate_offset: 0 },
                    _ => Tls::None,
                };
            }
            Step::Leave { .. } | Step::Return => return Tls::None,
            _ => {}
        }
    }
    Tls::None
}
