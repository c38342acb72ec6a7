package s3

import (
	"fmt"
	"net/http"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const standard = "STANDARD"

// storageClasses are those that a write may name; true for the archives, whose
// objects must be restored before they can be read.
var storageClasses = map[string]bool{
	standard: false, "REDUCED_REDUNDANCY": false, "STANDARD_IA": false, "ONEZONE_IA": false,
	"INTELLIGENT_TIERING": false, "GLACIER_IR": false, "GLACIER": true, "DEEP_ARCHIVE": true,
}

// storageClass reads the storage class of a write.
func (c *call) storageClass() (string, error) {
	class := c.header("X-Amz-Storage-Class")
	if class == "" {
		return standard, nil
	}
	if _, ok := storageClasses[class]; !ok {
		return "", wire.Errorf(400, "InvalidStorageClass", "The storage class you specified is not valid")
	}
	return class, nil
}

// restored is the temporary copy of an archived object. The zero value is none.
type restored struct{ from, until time.Time }

func (r restored) ready(now time.Time) bool { return !now.Before(r.from) && now.Before(r.until) }

func (r restored) ongoing(now time.Time) bool { return now.Before(r.from) }

// header is the value of x-amz-restore, "" where nothing was restored.
func (r restored) header() string {
	switch now := time.Now(); {
	case r.ongoing(now):
		return `ongoing-request="true"`
	case r.ready(now):
		return fmt.Sprintf(`ongoing-request="false", expiry-date=%q`, r.until.UTC().Format(httpTime))
	}
	return ""
}

// write adds what a listing tells of the restore.
func (r restored) write(d *document) {
	now := time.Now()
	if !r.ongoing(now) && !r.ready(now) {
		return
	}
	d.begin("RestoreStatus")
	d.boolean("IsRestoreInProgress", r.ongoing(now))
	if r.ready(now) {
		d.element("RestoreExpiryDate", r.until.UTC().Format(isoTime))
	}
	d.end("RestoreStatus")
}

// checkReadable refuses an archived object that is not restored.
func (v *version) checkReadable() error {
	if !storageClasses[v.storageClass] || v.restored.ready(time.Now()) {
		return nil
	}
	return &wire.Error{Code: "InvalidObjectState", Message: "The operation is not valid for the object's storage class", Status: 403,
		Fields: map[string]string{"StorageClass": v.storageClass}}
}

func (s *Service) restoreObject(c *call) error {
	var in struct {
		Days   int
		Type   string // SELECT is not modelled
		Output *struct{}
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	if in.Type != "" || in.Output != nil {
		return wire.Errorf(http.StatusNotImplemented, "NotImplemented", "localaws does not model SELECT restores")
	}
	if in.Days < 1 {
		return malformedXML()
	}
	if _, err := c.version(); err != nil {
		return err
	}
	status := http.StatusAccepted
	_, err := c.bucket.change(c.key, c.query.Get("versionId"), func(v *version) error {
		if !storageClasses[v.storageClass] {
			return wire.Errorf(403, "InvalidObjectState", "Restore is not allowed for the object's current storage class")
		}
		now := time.Now()
		switch {
		case v.restored.ongoing(now):
			return wire.Errorf(409, "RestoreAlreadyInProgress", "Object restore is already in progress")
		case v.restored.ready(now): // only the expiry moves
			status = http.StatusOK
		default:
			v.restored.from = now.Add(s.cfg.RestoreDelay)
		}
		// The copy goes at the midnight (UTC) after its last day.
		v.restored.until = v.restored.from.AddDate(0, 0, in.Days+1).UTC().Truncate(24 * time.Hour)
		return nil
	})
	if err != nil {
		return err
	}
	return c.empty(status)
}
