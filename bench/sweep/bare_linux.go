package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The bare loops send one SYN to each address of a network in turn, from a frame
// that only the address and checksum change in, and do nothing else: what the kernel lets
// a program send on this wire at most, by each way there is.

// bareFrame is an Ethernet frame with a SYN without options, whose checksums
// are those for address 0.
func bareFrame(from, to net.HardwareAddr) []byte {
	f := make([]byte, 54)
	copy(f, to)
	copy(f[6:], from)
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	f[14], f[22], f[23] = 0x45, 64, 6
	binary.BigEndian.PutUint16(f[16:], 40)
	copy(f[26:], net.IPv4(10, 99, 0, 1).To4())
	binary.BigEndian.PutUint16(f[34:], 61000)
	binary.BigEndian.PutUint16(f[36:], port)
	f[46], f[47] = 5<<4, 2
	binary.BigEndian.PutUint16(f[48:], 65535)
	return f
}

// aim puts a destination into the frame and its sums right.
func aim(f []byte, addr uint32) {
	binary.BigEndian.PutUint32(f[30:], addr)
	binary.BigEndian.PutUint16(f[24:], 0)
	binary.BigEndian.PutUint16(f[24:], ^fold(sum(f[14:34])))
	binary.BigEndian.PutUint16(f[50:], 0)
	binary.BigEndian.PutUint16(f[50:], ^fold(sum(f[26:54])+6+20))
}

func sum(b []byte) (s uint32) {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	return s
}

func fold(s uint32) uint16 {
	s = s&0xffff + s>>16
	return uint16(s + s>>16)
}

// runBare sends n packets by one way: mmsg, mmsg-bypass, ring or ring-bypass.
func runBare(_ context.Context, args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("bare takes a way, an interface, the other end's hardware address, a network and a number of packets")
	}
	device, err := net.InterfaceByName(args[1])
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(args[2])
	if err != nil {
		return err
	}
	base := binary.BigEndian.Uint32(net.ParseIP(args[3]).To4())
	n, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if args[0] == "mmsg-bypass" || args[0] == "ring-bypass" {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
	}
	frame := bareFrame(device.HardwareAddr, mac)
	send := bareMmsg
	if args[0] == "ring" || args[0] == "ring-bypass" {
		send = bareRing
	}
	began := time.Now()
	sent, err := send(fd, device.Index, frame, base, n)
	if err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Printf("%d packets in %v: %.0f a second\n", sent, took, float64(sent)/took.Seconds())
	return nil
}

const bareBatch = 256

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

func bareMmsg(fd, index int, frame []byte, base uint32, n int) (sent int, err error) {
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		return 0, err
	}
	frames := make([][]byte, bareBatch)
	vecs := make([]unix.Iovec, bareBatch)
	msgs := make([]mmsghdr, bareBatch)
	for i := range frames {
		frames[i] = append([]byte(nil), frame...)
		vecs[i].Base = &frames[i][0]
		vecs[i].SetLen(len(frame))
		msgs[i].hdr.Iov = &vecs[i]
		msgs[i].hdr.Iovlen = 1
	}
	for sent < n {
		k := min(bareBatch, n-sent)
		for i := range k {
			aim(frames[i], base+uint32(sent+i))
		}
		for done := 0; done < k; {
			m, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[done])), uintptr(k-done), 0, 0, 0)
			if errno == unix.ENOBUFS {
				runtime.Gosched()
				continue
			}
			if errno != 0 {
				return sent, errno
			}
			done += int(m)
		}
		sent += k
	}
	return sent, nil
}

func bareRing(fd, index int, frame []byte, base uint32, n int) (sent int, err error) {
	const frameSize, frames, blockSize = 128, 2048, 1 << 16
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return 0, err
	}
	req := unix.TpacketReq{Block_size: blockSize, Block_nr: frameSize * frames / blockSize, Frame_size: frameSize, Frame_nr: frames}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &req); err != nil {
		return 0, err
	}
	ring, err := unix.Mmap(fd, 0, frameSize*frames, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(ring)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		return 0, err
	}
	const data = 32 // TPACKET2_HDRLEN - sizeof(struct sockaddr_ll), aligned
	slot := 0
	for sent < n {
		k := min(bareBatch, n-sent)
		for i := range k {
			f := ring[slot*frameSize : (slot+1)*frameSize]
			h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&f[0]))
			copy(f[data:], frame)
			aim(f[data:data+54], base+uint32(sent+i))
			h.Len = 54
			h.Status = unix.TP_STATUS_SEND_REQUEST
			slot = (slot + 1) % frames
		}
		if _, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, 0, 0, 0); errno != 0 && errno != unix.ENOBUFS {
			return sent, errno
		}
		sent += k
	}
	return sent, nil
}
