package sweep

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// packetWire is a wire by packet sockets (packet(7)): one that sends, whole
// frames in batches, and one that receives into a ring that it shares with the
// kernel.
type packetWire struct {
	out      int
	messages []mmsghdr
	vectors  []unix.Iovec

	in     *os.File
	raw    syscall.RawConn
	ring   []byte
	closed atomic.Bool
}

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// The receiving ring: 16 MiB, which is 100,000 answers, or a tenth of a second at
// a million a second. A block is handed over when it is full, or after blockWait.
const (
	blockSize  = 1 << 18
	blocks     = 64
	ringFrame  = 1 << 11
	blockWait  = 5 // ms
	sendBuffer = 4 << 20
)

func openWire(l *Link, f *frames) (wire, error) {
	w := &packetWire{messages: make([]mmsghdr, chunk), vectors: make([]unix.Iovec, chunk)}
	for i := range w.messages {
		w.messages[i].header.Iov = &w.vectors[i]
		w.messages[i].header.SetIovlen(1)
	}
	var err error
	if w.out, err = sender(l); err != nil {
		return nil, fmt.Errorf("open %s to send: %w", l.Interface, err)
	}
	if err := w.listen(l, f); err != nil {
		_ = unix.Close(w.out)
		return nil, fmt.Errorf("open %s to receive: %w", l.Interface, err)
	}
	return w, nil
}

// sender is a socket that takes whole frames for an interface, past its queueing
// discipline. With protocol 0 it receives nothing.
func sender(l *Link) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	if err := errors.Join(
		os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Index})),
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)),
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)),
	); err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// listen opens the receiving socket. It hears nothing before its filter is set,
// for only then is it bound to a protocol.
func (w *packetWire) listen(l *Link, f *frames) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	w.in = os.NewFile(uintptr(fd), "packets of "+l.Interface)
	fail := func(what string, err error) error {
		return errors.Join(os.NewSyscallError(what, err), w.in.Close())
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fail("setsockopt", err)
	}
	program, protocol := filter4(f), uint16(unix.ETH_P_IP)
	if !f.source.Is4() {
		program, protocol = filter6(f), unix.ETH_P_IPV6
	}
	code, err := bpf.Assemble(program)
	if err != nil {
		return fail("assemble", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(code)), Filter: (*unix.SockFilter)(unsafe.Pointer(&code[0]))}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fail("setsockopt", err)
	}
	req := unix.TpacketReq3{
		Block_size: blockSize, Block_nr: blocks, Frame_size: ringFrame, Frame_nr: blockSize / ringFrame * blocks,
		Retire_blk_tov: blockWait,
	}
	if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fail("setsockopt", err)
	}
	if w.ring, err = unix.Mmap(fd, 0, blockSize*blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fail("mmap", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, protocol)), Ifindex: l.Index}); err != nil {
		return errors.Join(fail("bind", err), unix.Munmap(w.ring))
	}
	if w.raw, err = w.in.SyscallConn(); err != nil {
		return errors.Join(err, w.in.Close(), unix.Munmap(w.ring))
	}
	return nil
}

// filter4 lets through what may answer a SYN over IPv4: TCP to our ports with
// SYN and ACK or with RST, and ICMP destination unreachable.
func filter4(f *frames) []bpf.Instruction {
	source := binary.BigEndian.Uint32(f.source.AsSlice())
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 16, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: source, SkipTrue: 16},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 14}, // a later fragment
		bpf.LoadMemShift{Off: 0},
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoICMP, SkipTrue: 8},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoTCP, SkipTrue: 10},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(f.first), SkipTrue: 8},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(f.last), SkipTrue: 7},
		bpf.LoadIndirect{Off: 13, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: flagRST, SkipTrue: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: flagSYN | flagACK},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: flagSYN | flagACK, SkipTrue: 2, SkipFalse: 3},
		bpf.LoadIndirect{Off: 0, Size: 1}, // of ICMP
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 3, SkipTrue: 1},
		bpf.RetConstant{Val: snap},
		bpf.RetConstant{Val: 0},
	}
}

// filter6 is filter4 for IPv6.
func filter6(f *frames) []bpf.Instruction {
	source := f.source.As16()
	var program []bpf.Instruction
	const rest = 11 // instructions after the address and before the last
	for i := range 4 {
		program = append(
			program,
			bpf.LoadAbsolute{Off: 24 + uint32(4*i), Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(source[4*i:]), SkipTrue: uint8(2*(3-i) + rest + 1)},
		)
	}
	return append(
		program,
		bpf.LoadAbsolute{Off: 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoICMPv6, SkipTrue: 8},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoTCP, SkipTrue: 10},
		bpf.LoadAbsolute{Off: ipv6Len + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(f.first), SkipTrue: 8},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(f.last), SkipTrue: 7},
		bpf.LoadAbsolute{Off: ipv6Len + 13, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: flagRST, SkipTrue: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: flagSYN | flagACK},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: flagSYN | flagACK, SkipTrue: 2, SkipFalse: 3},
		bpf.LoadAbsolute{Off: ipv6Len, Size: 1}, // of ICMPv6
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 1, SkipTrue: 1},
		bpf.RetConstant{Val: snap},
		bpf.RetConstant{Val: 0},
	)
}

func (w *packetWire) send(frames [][]byte) (int, error) {
	for i, f := range frames {
		w.vectors[i].Base = &f[0]
		w.vectors[i].SetLen(len(f))
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(w.out), uintptr(unsafe.Pointer(&w.messages[0])), uintptr(len(frames)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.ENOBUFS, unix.EAGAIN, unix.ENOMEM:
			return 0, fmt.Errorf("send: %w", errShort)
		default:
			return 0, os.NewSyscallError("sendmmsg", errno)
		}
	}
}

func (w *packetWire) receive(got func([]byte)) error {
	block := 0
	header := func() *unix.TpacketHdrV1 {
		b := (*unix.TpacketBlockDesc)(unsafe.Pointer(&w.ring[block*blockSize]))
		return (*unix.TpacketHdrV1)(unsafe.Pointer(&b.Hdr[0]))
	}
	for {
		// The status says whose the block is, and is written last by either side.
		h := header()
		status := (*atomic.Uint32)(unsafe.Pointer(&h.Block_status))
		err := w.raw.Read(func(uintptr) bool { return status.Load()&unix.TP_STATUS_USER != 0 })
		if w.closed.Load() {
			return unix.Munmap(w.ring)
		}
		if err != nil {
			return errors.Join(err, unix.Munmap(w.ring))
		}
		data := w.ring[block*blockSize : (block+1)*blockSize]
		at := int(h.Offset_to_first_pkt)
		for range h.Num_pkts {
			p := (*unix.Tpacket3Hdr)(unsafe.Pointer(&data[at]))
			from := at + int(p.Net)
			got(data[from : from+int(p.Snaplen)])
			at += int(p.Next_offset)
		}
		status.Store(unix.TP_STATUS_KERNEL)
		block = (block + 1) % blocks
	}
}

func (w *packetWire) dropped() uint64 {
	var n uint64
	_ = w.raw.Control(func(fd uintptr) { // a closed socket has dropped nothing more
		if s, err := unix.GetsockoptTpacketStatsV3(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = uint64(s.Drops)
		}
	})
	return n
}

func (w *packetWire) close() error {
	w.closed.Store(true)
	return errors.Join(w.in.Close(), unix.Close(w.out))
}

// sourcePorts are ports that the kernel gives to no connection by itself, so
// that no answer to a SYN meets one: those above its range, or else below it.
func sourcePorts() ports {
	const least = 1024
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	first, last := 32768, 60999
	if err == nil {
		_, _ = fmt.Sscan(string(text), &first, &last) // the kernel's defaults otherwise
	}
	switch {
	case last <= 65535-least:
		return ports{uint16(last + 1), 65535}
	case first >= 2*least+8192:
		return ports{uint16(first - least), uint16(first - 1)}
	}
	return ports{61000, 65535}
}
