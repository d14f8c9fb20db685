//go:build !linux

package sweep

// openWire opens nothing: no Link is found on this system.
func openWire(*Link, *frames) (wire, error) { return nil, ErrSystem }

func sourcePorts() ports { return ports{61000, 65535} }
