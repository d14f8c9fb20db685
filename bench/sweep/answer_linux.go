package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// runAnswer answers every SYN to the port that comes in by an interface, or of
// the part of addresses that share names, until ctx ends or its input does. It
// is an XDP program, which turns the packet round before the kernel makes
// anything of it: a responder in a program's own memory costs more than the
// scanners that it is there for.
func runAnswer(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("answer takes an interface and the share of addresses that answer")
	}
	share, err := strconv.ParseFloat(args[1], 64)
	if err != nil {
		return err
	}
	device, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return err
	}
	count, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer count.Close()
	detach, err := attach(device, answer(count.FD(), threshold(share)))
	if err != nil {
		return fmt.Errorf("attach the responder: %w", err)
	}
	defer detach()
	fmt.Println("ready")
	// A line asks for what was counted since the last.
	for lines := bufio.NewScanner(os.Stdin); lines.Scan() && ctx.Err() == nil; {
		var c [3]uint64
		if err := count.Lookup(uint32(0), &c); err != nil {
			return err
		}
		fmt.Println(c[0], c[2]-c[1])
		if err := count.Put(uint32(0), [3]uint64{}); err != nil {
			return err
		}
	}
	return nil
}

func attach(device *net.Interface, code asm.Instructions) (detach func(), err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: code})
	if err != nil {
		return nil, err
	}
	attached, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: device.Index, Flags: link.XDPDriverMode})
	if err != nil {
		_ = program.Close()
		return nil, err
	}
	return func() {
		_ = attached.Close()
		_ = program.Close()
	}, nil
}

// runPass has a virtual interface take what an XDP program at its other end
// sends, which it does only with a program of its own.
func runPass(_ context.Context, args []string) error {
	device, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	detach, err := attach(device, asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()})
	if err != nil {
		return err
	}
	defer detach()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin) // until it ends
	return err
}

// What an XDP program returns (enum xdp_action).
const (
	xdpDrop = 1
	xdpPass = 2
	xdpTx   = 3
)

// scatter is what an address is multiplied by, modulo 2^32, to tell whether it
// answers: below the threshold it does.
const scatter = 0x9E3779B1

func threshold(share float64) uint32 { return uint32(min(share*(1<<32), 1<<32-1)) }

// answers reports whether the responder answers for an address.
func answers(addr [4]byte, below uint32) bool {
	return binary.LittleEndian.Uint32(addr[:])*scatter < below || below == 1<<32-1
}

// answer is the program: a SYN goes back as a SYN-ACK with sequence number 0. Only
// addresses and ports trade places, which leaves the checksums as they are; the
// acknowledgement is the sequence number and one, and the flag ACK is 0x10, so
// that the sum grows by 0x11 and the checksum shrinks by it (RFC 1624).
func answer(count int, below uint32) asm.Instructions {
	const (
		etherType, protocol, flags = 12, 23, 47
		source, destination        = 26, 30
		from, to, seq, ack, sum    = 34, 36, 38, 42, 50
		length                     = 54
	)
	little := func(v uint16) int32 { return int32(v<<8 | v>>8) }
	load := func(dst asm.Register, at int16, size asm.Size) asm.Instruction {
		return asm.LoadMem(dst, asm.R2, at, size)
	}
	store := func(at int16, src asm.Register, size asm.Size) asm.Instruction {
		return asm.StoreMem(asm.R2, at, src, size)
	}
	program := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // where the packet begins
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // and ends
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, length),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		load(asm.R4, etherType, asm.Half),
		asm.JNE.Imm(asm.R4, little(0x0800), "pass"),
		load(asm.R4, 14, asm.Byte),
		asm.JNE.Imm(asm.R4, 0x45, "pass"),
		load(asm.R4, protocol, asm.Byte),
		asm.JNE.Imm(asm.R4, 6, "pass"),
		load(asm.R4, flags, asm.Byte),
		asm.JNE.Imm(asm.R4, 0x02, "drop"),
		load(asm.R4, to, asm.Half),
		asm.JNE.Imm(asm.R4, little(port), "drop"),
		// Count, and note the time of the first and the last.
		asm.Mov.Reg(asm.R9, asm.R2),
		asm.FnKtimeGetNs.Call(),
		asm.Mov.Reg(asm.R2, asm.R9),
		asm.LoadMapValue(asm.R5, count, 0),
		asm.StoreMem(asm.R5, 16, asm.R0, asm.DWord),
		asm.LoadMem(asm.R4, asm.R5, 8, asm.DWord),
		asm.JNE.Imm(asm.R4, 0, "counted"),
		asm.StoreMem(asm.R5, 8, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R4, 1).WithSymbol("counted"),
		asm.AddAtomic.Mem(asm.R5, asm.R4, asm.DWord, 0),
	}
	if below != 1<<32-1 {
		k, limit := uint32(scatter), below
		program = append(program,
			load(asm.R4, destination, asm.Word),
			asm.LoadImm(asm.R5, int64(k), asm.DWord),
			asm.Mul.Reg32(asm.R4, asm.R5),
			asm.LoadImm(asm.R5, int64(limit), asm.DWord),
			asm.JGE.Reg(asm.R4, asm.R5, "drop"),
		)
	}
	return append(
		program,
		load(asm.R4, 0, asm.Word), load(asm.R5, 4, asm.Half), load(asm.R6, 6, asm.Word), load(asm.R7, 10, asm.Half),
		store(0, asm.R6, asm.Word), store(4, asm.R7, asm.Half), store(6, asm.R4, asm.Word), store(10, asm.R5, asm.Half),
		load(asm.R4, source, asm.Word), load(asm.R5, destination, asm.Word),
		store(source, asm.R5, asm.Word), store(destination, asm.R4, asm.Word),
		load(asm.R4, from, asm.Half), load(asm.R5, to, asm.Half),
		store(from, asm.R5, asm.Half), store(to, asm.R4, asm.Half),

		load(asm.R4, seq, asm.Word),
		asm.HostTo(asm.BE, asm.R4, asm.Word),
		asm.Add.Imm(asm.R4, 1),
		asm.HostTo(asm.BE, asm.R4, asm.Word),
		store(ack, asm.R4, asm.Word),
		asm.Mov.Imm(asm.R4, 0),
		store(seq, asm.R4, asm.Word),
		asm.Mov.Imm(asm.R4, 0x12),
		store(flags, asm.R4, asm.Byte),

		load(asm.R4, sum, asm.Half),
		asm.HostTo(asm.BE, asm.R4, asm.Half),
		asm.Add.Imm(asm.R4, 0xffff-0x11),
		asm.Mov.Reg(asm.R5, asm.R4),
		asm.RSh.Imm(asm.R5, 16),
		asm.And.Imm(asm.R4, 0xffff),
		asm.Add.Reg(asm.R4, asm.R5),
		asm.HostTo(asm.BE, asm.R4, asm.Half),
		store(sum, asm.R4, asm.Half),

		asm.Mov.Imm(asm.R0, xdpTx),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("drop"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	)
}
