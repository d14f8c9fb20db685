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

// packetWire is a wire by two packet sockets (packet(7)) with rings of frames
// that they share with the kernel: one sends, one receives. Whether the ring or
// sendmmsg sends more hangs on the machine and its load; go run ./bench/sweep has
// a bare loop of each.
type packetWire struct {
	out     int
	outRing []byte
	outSlot int // the kernel goes on there

	in     *os.File
	raw    syscall.RawConn
	ring   []byte
	closed atomic.Bool
}

// The sending ring.
const (
	outFrame  = 1 << 7
	outFrames = 1 << 11
	outBlock  = 1 << 16
	outData   = 32 // of a frame, what comes before the packet: TPACKET2_HDRLEN without a sockaddr_ll
)

// The receiving ring: 16 MiB, which is 100,000 answers, or a tenth of a second at
// a million a second. A block is handed over when it is full, or after blockWait.
const (
	blockSize = 1 << 18
	blocks    = 64
	ringFrame = 1 << 11
	blockWait = 5 // ms
)

func openWire(l *Link, f *frames) (wire, error) {
	w := new(packetWire)
	if err := w.sender(l); err != nil {
		return nil, fmt.Errorf("open %s to send: %w", l.Interface, err)
	}
	if err := w.listen(l, f); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s to receive: %w", l.Interface, err), w.closeSender())
	}
	return w, nil
}

// sender opens the sending socket, which takes whole frames for an interface,
// past its queueing discipline. With protocol 0 it receives nothing.
func (w *packetWire) sender(l *Link) (err error) {
	if w.out, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("socket", err)
	}
	ring := unix.TpacketReq{Block_size: outBlock, Block_nr: outFrame * outFrames / outBlock, Frame_size: outFrame, Frame_nr: outFrames}
	err = errors.Join(
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(w.out, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)),
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(w.out, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2)),
		os.NewSyscallError("setsockopt", unix.SetsockoptTpacketReq(w.out, unix.SOL_PACKET, unix.PACKET_TX_RING, &ring)),
		os.NewSyscallError("bind", unix.Bind(w.out, &unix.SockaddrLinklayer{Ifindex: l.Index})),
	)
	if err == nil {
		w.outRing, err = unix.Mmap(w.out, 0, outFrame*outFrames, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		err = os.NewSyscallError("mmap", err)
	}
	if err != nil {
		_ = unix.Close(w.out)
	}
	return err
}

func (w *packetWire) closeSender() error {
	return errors.Join(unix.Munmap(w.outRing), unix.Close(w.out))
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

// status is the word of a slot that says whose it is, and is written last by
// either side.
func (w *packetWire) status(slot int) *uint32 {
	return &(*unix.Tpacket2Hdr)(unsafe.Pointer(&w.outRing[slot*outFrame])).Status
}

// send has the kernel send frames, fewer than the ring has room for, and waits
// until the interface is done with them.
func (w *packetWire) send(frames [][]byte) (int, error) {
	slot := w.outSlot
	for _, f := range frames {
		at := w.outRing[slot*outFrame : (slot+1)*outFrame]
		(*unix.Tpacket2Hdr)(unsafe.Pointer(&at[0])).Len = uint32(copy(at[outData:], f))
		atomic.StoreUint32(w.status(slot), unix.TP_STATUS_SEND_REQUEST)
		slot = (slot + 1) % outFrames
	}
	errno := unix.EINTR
	for errno == unix.EINTR {
		_, _, errno = unix.Syscall6(unix.SYS_SENDTO, uintptr(w.out), 0, 0, 0, 0, 0)
	}
	// What the kernel did not come to is taken back.
	sent := 0
	for sent < len(frames) && atomic.LoadUint32(w.status(w.outSlot))&unix.TP_STATUS_SEND_REQUEST == 0 {
		w.outSlot = (w.outSlot + 1) % outFrames
		sent++
	}
	for slot, i := w.outSlot, sent; i < len(frames); i++ {
		atomic.StoreUint32(w.status(slot), unix.TP_STATUS_AVAILABLE)
		slot = (slot + 1) % outFrames
	}
	switch {
	case errno == unix.ENOBUFS, errno == unix.EAGAIN, errno == unix.ENOMEM, errno == 0 && sent < len(frames):
		return sent, fmt.Errorf("send: %w", errShort)
	case errno != 0:
		return sent, os.NewSyscallError("send", errno)
	}
	return sent, nil
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
	return errors.Join(w.in.Close(), w.closeSender())
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
