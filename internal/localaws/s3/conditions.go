package s3

import (
	"net/http"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

func preconditionFailed(condition string) error {
	return &wire.Error{Code: "PreconditionFailed", Message: "At least one of the pre-conditions you specified did not hold",
		Status: http.StatusPreconditionFailed, Fields: map[string]string{"Condition": condition}}
}

// writeCondition is what If-Match and If-None-Match demand of the object that a
// write replaces. The zero value demands nothing.
type writeCondition struct {
	etag   string // If-Match; "*" is any object
	absent bool   // If-None-Match: *
}

func (c *call) writeCondition() (writeCondition, error) {
	cond := writeCondition{etag: c.header("If-Match")}
	switch v := c.header("If-None-Match"); v {
	case "":
	case "*":
		cond.absent = true
	default: // writes know only the asterisk
		return cond, wire.Errorf(http.StatusNotImplemented, "NotImplemented", "A header you provided implies functionality that is not implemented")
	}
	return cond, nil
}

// check says whether the condition holds for the current version of a key,
// which is nil where the key has none or a delete marker.
func (cond writeCondition) check(current *version) error {
	if cond.absent && current != nil {
		return preconditionFailed("If-None-Match")
	}
	if cond.etag == "" {
		return nil
	}
	if current == nil {
		return errNoSuchKey()
	}
	if !current.matches(cond.etag) {
		return preconditionFailed("If-Match")
	}
	return nil
}

// readConditions are the four conditions on what is read: of GET and HEAD, or,
// with the x-amz-copy-source- prefix, of a copy's source.
type readConditions struct {
	match, noneMatch, modifiedSince, unmodifiedSince string
}

func (c *call) readConditions(prefix string) readConditions {
	return readConditions{
		match: c.header(prefix + "If-Match"), noneMatch: c.header(prefix + "If-None-Match"),
		modifiedSince: c.header(prefix + "If-Modified-Since"), unmodifiedSince: c.header(prefix + "If-Unmodified-Since"),
	}
}

// check decides as RFC 7232 and the S3 API reference do: an If-Match that holds
// makes If-Unmodified-Since void, an If-None-Match makes If-Modified-Since void.
// notModified is the failure of the latter two (304 for a read, 412 for a copy).
func (r readConditions) check(v *version, notModified error) error {
	switch {
	case r.match != "":
		if !v.matches(r.match) {
			return preconditionFailed("If-Match")
		}
	case r.unmodifiedSince != "":
		if t, err := http.ParseTime(r.unmodifiedSince); err == nil && v.modifiedTime().After(t) {
			return preconditionFailed("If-Unmodified-Since")
		}
	}
	switch {
	case r.noneMatch != "":
		if v.matches(r.noneMatch) {
			return notModified
		}
	case r.modifiedSince != "":
		// A time in the future is no condition.
		if t, err := http.ParseTime(r.modifiedSince); err == nil && !v.modifiedTime().After(t) && !t.After(time.Now()) {
			return notModified
		}
	}
	return nil
}

// matches reports whether a list of entity tags names the version's.
func (v *version) matches(tags string) bool {
	for tag := range strings.SplitSeq(tags, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || strings.Trim(tag, `"`) == v.etag {
			return true
		}
	}
	return false
}
