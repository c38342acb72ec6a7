package s3

import (
	"net/http"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// The modes of a retention.
const (
	governance = "GOVERNANCE"
	compliance = "COMPLIANCE"
)

// lock is the Object Lock of one version. The zero value is none.
type lock struct {
	mode  string
	until time.Time
	hold  string // legal hold: ON, OFF or "" for never set
}

// protects reports whether the version may neither be deleted nor have its
// encryption updated now.
func (l lock) protects() bool { return l.hold == "ON" || l.retained() }

func (l lock) retained() bool { return l.mode != "" && time.Now().Before(l.until) }

func (l lock) describe(c *call) {
	if l.mode != "" {
		c.set("X-Amz-Object-Lock-Mode", l.mode)
		c.set("X-Amz-Object-Lock-Retain-Until-Date", l.until.UTC().Format(isoTime))
	}
	c.set("X-Amz-Object-Lock-Legal-Hold", l.hold)
}

// lockRule is the Object Lock configuration of a bucket.
type lockRule struct {
	enabled     bool
	mode        string // of the default retention; "" is none
	days, years int
}

// lockHeaders reads the lock that a write asks for, or takes the bucket's
// default retention.
func (c *call) lockHeaders() (lock, error) {
	c.bucket.mu.RLock()
	rule := c.bucket.lock
	c.bucket.mu.RUnlock()
	mode, until, hold := c.header("X-Amz-Object-Lock-Mode"), c.header("X-Amz-Object-Lock-Retain-Until-Date"), c.header("X-Amz-Object-Lock-Legal-Hold")
	if (mode != "" || until != "" || hold != "") && !rule.enabled {
		return lock{}, errNoLockConfiguration()
	}
	var l lock
	switch {
	case mode == "" && until == "":
		if rule.mode != "" {
			l.mode, l.until = rule.mode, time.Now().UTC().Truncate(time.Second).AddDate(rule.years, 0, rule.days)
		}
	case mode == "" || until == "":
		return lock{}, invalidArgument("x-amz-object-lock-mode", mode, "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied")
	default:
		if err := c.authorize("s3:PutObjectRetention", c.name, c.key); err != nil {
			return lock{}, err
		}
		var err error
		if l, err = retention(mode, until); err != nil {
			return lock{}, err
		}
	}
	switch l.hold = hold; hold {
	case "", "OFF", "ON":
	default:
		return lock{}, invalidArgument("x-amz-object-lock-legal-hold", hold, "Legal hold must be either of 'ON' or 'OFF'")
	}
	if hold != "" {
		if err := c.authorize("s3:PutObjectLegalHold", c.name, c.key); err != nil {
			return lock{}, err
		}
	}
	return l, nil
}

// retention reads a mode and a date, which must be in the future.
func retention(mode, until string) (lock, error) {
	if mode != governance && mode != compliance {
		return lock{}, invalidArgument("x-amz-object-lock-mode", mode, "Unknown wormMode directive.")
	}
	t, err := time.Parse(time.RFC3339, until)
	if err != nil {
		return lock{}, invalidArgument("x-amz-object-lock-retain-until-date", until, "The retain until date must be provided in ISO 8601 format")
	}
	if !t.After(time.Now()) {
		return lock{}, invalidArgument("x-amz-object-lock-retain-until-date", until, "The retain until date must be in the future!")
	}
	return lock{mode: mode, until: t.UTC()}, nil
}

// checkIntegrity says whether a PUT with lock headers came with the integrity
// header that S3 demands then.
func (l lock) checkIntegrity(c *call, sum checksum) error {
	asked := c.header("X-Amz-Object-Lock-Mode") != "" || c.header("X-Amz-Object-Lock-Legal-Hold") != ""
	if asked && sum.algorithm == nil && c.header("Content-Md5") == "" {
		return wire.Errorf(400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters")
	}
	return nil
}

func errNoLockConfiguration() error {
	return wire.Errorf(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
}

func (c *call) bypasses() bool { return flag(c.header("X-Amz-Bypass-Governance-Retention")) }

// checkRemovable says whether the caller may remove the version for good.
func (c *call) checkRemovable(key string, v *version) error {
	denied := wire.Errorf(403, "AccessDenied", "Access Denied because object protected by object lock.")
	switch {
	case !v.lock.protects():
		return nil
	case v.lock.hold == "ON" || v.lock.mode != governance || !c.bypasses():
		return denied
	}
	return c.authorize("s3:BypassGovernanceRetention", c.name, key)
}

func (s *Service) getObjectLockConfiguration(c *call) error {
	c.bucket.mu.RLock()
	rule := c.bucket.lock
	c.bucket.mu.RUnlock()
	if !rule.enabled {
		return wire.Errorf(404, "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket")
	}
	d := newDocument("ObjectLockConfiguration")
	d.element("ObjectLockEnabled", "Enabled")
	if rule.mode != "" {
		d.begin("Rule")
		d.begin("DefaultRetention")
		d.element("Mode", rule.mode)
		if rule.days > 0 {
			d.number("Days", int64(rule.days))
		} else {
			d.number("Years", int64(rule.years))
		}
		d.end("DefaultRetention")
		d.end("Rule")
	}
	d.end("ObjectLockConfiguration")
	return c.xml(d)
}

func (s *Service) putObjectLockConfiguration(c *call) error {
	var in struct {
		Enabled string `xml:"ObjectLockEnabled"`
		Default *struct {
			Mode        string
			Days, Years int
		} `xml:"Rule>DefaultRetention"`
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	if in.Enabled != "Enabled" {
		return malformedXML()
	}
	rule := lockRule{enabled: true}
	if d := in.Default; d != nil {
		if d.Mode != governance && d.Mode != compliance || (d.Days > 0) == (d.Years > 0) {
			return malformedXML()
		}
		rule.mode, rule.days, rule.years = d.Mode, d.Days, d.Years
	}
	c.bucket.mu.Lock()
	defer c.bucket.mu.Unlock()
	if c.bucket.versioning != versioningEnabled {
		return wire.Errorf(409, "InvalidBucketState", "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration")
	}
	c.bucket.lock = rule
	return c.empty(http.StatusOK)
}

// lockable says whether the bucket has an Object Lock configuration at all.
func (c *call) lockable() error {
	c.bucket.mu.RLock()
	defer c.bucket.mu.RUnlock()
	if !c.bucket.lock.enabled {
		return errNoLockConfiguration()
	}
	return nil
}

func errNoLock() error {
	return wire.Errorf(404, "NoSuchObjectLockConfiguration", "The specified object does not have a ObjectLock configuration")
}

func (s *Service) getObjectRetention(c *call) error {
	if err := c.lockable(); err != nil {
		return err
	}
	v, err := c.version()
	if err != nil {
		return err
	}
	if v.lock.mode == "" {
		return errNoLock()
	}
	d := newDocument("Retention")
	d.element("Mode", v.lock.mode)
	d.element("RetainUntilDate", v.lock.until.Format(isoTime))
	d.end("Retention")
	return c.xml(d)
}

func (s *Service) putObjectRetention(c *call) error {
	if err := c.lockable(); err != nil {
		return err
	}
	var in struct{ Mode, RetainUntilDate string }
	if err := c.decode(&in); err != nil {
		return err
	}
	var want lock // an empty document removes the retention
	if in.Mode != "" || in.RetainUntilDate != "" {
		var err error
		if want, err = retention(in.Mode, in.RetainUntilDate); err != nil {
			return malformedXML()
		}
	}
	if _, err := c.version(); err != nil {
		return err
	}
	_, err := c.bucket.change(c.key, c.query.Get("versionId"), func(v *version) error {
		if err := c.checkRetention(v.lock, want); err != nil {
			return err
		}
		v.lock.mode, v.lock.until = want.mode, want.until
		return nil
	})
	if err != nil {
		return err
	}
	return c.empty(http.StatusOK)
}

// checkRetention says whether a retention in force may be replaced by another
// one: making it longer or stricter always may, a governance retention may be
// weakened by who may bypass it, a compliance retention never.
func (c *call) checkRetention(old, want lock) error {
	weaker := want.until.Before(old.until) || old.mode == compliance && want.mode != compliance
	switch {
	case !old.retained() || !weaker:
		return nil
	case old.mode == compliance || !c.bypasses():
		return wire.Errorf(403, "AccessDenied", "Access Denied because object protected by object lock.")
	}
	return c.authorize("s3:BypassGovernanceRetention", c.name, c.key)
}

func (s *Service) getObjectLegalHold(c *call) error {
	if err := c.lockable(); err != nil {
		return err
	}
	v, err := c.version()
	if err != nil {
		return err
	}
	if v.lock.hold == "" {
		return errNoLock()
	}
	d := newDocument("LegalHold")
	d.element("Status", v.lock.hold)
	d.end("LegalHold")
	return c.xml(d)
}

func (s *Service) putObjectLegalHold(c *call) error {
	if err := c.lockable(); err != nil {
		return err
	}
	var in struct{ Status string }
	if err := c.decode(&in); err != nil {
		return err
	}
	if in.Status != "ON" && in.Status != "OFF" {
		return malformedXML()
	}
	if _, err := c.version(); err != nil {
		return err
	}
	_, err := c.bucket.change(c.key, c.query.Get("versionId"), func(v *version) error {
		v.lock.hold = in.Status
		return nil
	})
	if err != nil {
		return err
	}
	return c.empty(http.StatusOK)
}
