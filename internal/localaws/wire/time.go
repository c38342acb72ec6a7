package wire

import (
	"fmt"
	"strconv"
	"time"
)

// Timestamp is a time on the wire of the AWS JSON protocol: seconds since 1970,
// to the millisecond.
type Timestamp time.Time

// MarshalJSON writes the seconds since 1970 with three decimals.
func (t Timestamp) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Time(t).UnixMilli())/1000, 'f', 3, 64), nil
}

// UnmarshalJSON reads seconds since 1970.
func (t *Timestamp) UnmarshalJSON(data []byte) error {
	seconds, err := strconv.ParseFloat(string(data), 64)
	if err != nil {
		return fmt.Errorf("a timestamp must be a number: %s", data)
	}
	*t = Timestamp(time.UnixMilli(int64(seconds * 1000)))
	return nil
}
