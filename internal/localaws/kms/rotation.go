package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const day = 24 * time.Hour

// material is one key material of a symmetric key.
type material struct {
	id          string
	aead        cipher.AEAD // nil while imported material is deleted or expired
	state       string
	imported    bool     // by ImportKeyMaterial
	replicas    []string // the other Regions that have it, while it is pending
	model       string
	validTo     *timestamp
	description *string
	rotated     time.Time // when it became current; zero for the first
	rotation    string    // AUTOMATIC or ON_DEMAND; empty for the first
}

const secretLen = 32

func newSecret() [secretLen]byte { return [secretLen]byte(randomBytes(secretLen)) }

// newMaterial makes key material of a secret. AWS does not say what the id is
// made of; here it is the hash, so that the same imported material has the same id.
func newMaterial(secret [secretLen]byte, state string) *material {
	hash := sha256.Sum256(secret[:])
	block, _ := aes.NewCipher(secret[:]) // fails for other lengths only
	aead, _ := cipher.NewGCM(block)      // fails for other ciphers only
	return &material{id: hex.EncodeToString(hash[:]), aead: aead, state: state}
}

// current returns the material that encrypts, or nil.
func (k *key) current() *material { return k.materialIn(materialCurrent) }

func (k *key) materialIn(state string) *material {
	i := slices.IndexFunc(k.materials, func(m *material) bool { return m.state == state })
	if i < 0 {
		return nil
	}
	return k.materials[i]
}

// materialComplete reports whether all material that belongs to the key for good is there.
func (k *key) materialComplete() bool {
	return k.current() != nil && !slices.ContainsFunc(k.materials, func(m *material) bool {
		return m.state != materialPending && m.aead == nil
	})
}

// stateOf is the state of the material as the API tells it: a multi-Region key does
// not rotate to imported material that a replica lacks.
func (k *key) stateOf(m *material) string {
	if m.state == materialPending && slices.ContainsFunc(k.regions, func(region string) bool {
		return region != k.region() && !slices.Contains(m.replicas, region)
	}) {
		return materialElsewhere
	}
	return m.state
}

// rotate makes next the current material.
func (s *Service) rotate(k *key, next *material, at time.Time, kind string) {
	previous := k.current()
	previous.state = materialOld
	next.state, next.rotated, next.rotation = materialCurrent, at, kind
	if !slices.Contains(k.materials, next) {
		k.materials = append(k.materials, next)
	}
	s.announce(k, at, "RotateKey", "KMS CMK Rotation", serviceEventDetails{
		RotationType: kind, KeyOrigin: k.origin, PreviousKeyMaterialID: previous.id, CurrentKeyMaterialID: next.id,
	})
}

// rotatable checks that the key is of a kind that rotates by itself. AWS checks
// the kind before the state as far as its table tells: imported material is
// unsupported even while it is pending.
func (c *call) rotatable(k *key) error {
	switch {
	case !k.symmetric():
		return unsupported("%s key spec %s is not valid for this operation.", k.arn, k.spec)
	case k.origin != originKMS:
		return unsupported("%s origin is %s which is not valid for this operation.", k.arn, k.origin)
	}
	return nil
}

// changeRotation finds the key of an operation that switches rotation.
func (c *call) changeRotation(ref string) (*key, error) {
	k, err := c.use(ref, byKey)
	if err != nil {
		return nil, err
	}
	if err := c.rotatable(k); err != nil {
		return nil, err
	}
	if k.multiRegion && k.primaryRegion != c.region {
		// AWS documents that the primary key decides, but not the error of a replica.
		return nil, unsupported("%s is a replica key; rotation is set on its primary key.", k.arn)
	}
	return k, k.ready()
}

type enableKeyRotationInput struct {
	KeyID                string `json:"KeyId"`
	RotationPeriodInDays *int   `json:"RotationPeriodInDays"`
}

func enableKeyRotation(c *call, in *enableKeyRotationInput) error {
	period := defaultRotationDays // also when the key had another period before
	if in.RotationPeriodInDays != nil {
		if period = *in.RotationPeriodInDays; period < 90 || period > 2560 {
			return invalid("1 validation error detected: Value '%d' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value between 90 and 2560", period)
		}
		c.condition("kms:RotationPeriodInDays", strconv.Itoa(period))
	}
	k, err := c.changeRotation(in.KeyID)
	if err != nil {
		return err
	}
	k.rotationPeriod = period
	k.nextRotation = c.now.Add(time.Duration(period) * day)
	c.reschedule()
	return nil
}

func disableKeyRotation(c *call, in *keyIDInput) error {
	k, err := c.changeRotation(in.KeyID)
	if err != nil {
		return err
	}
	k.rotationPeriod = 0
	c.reschedule()
	return nil
}

type getKeyRotationStatusOutput struct {
	KeyID                string     `json:"KeyId"`
	KeyRotationEnabled   bool       `json:"KeyRotationEnabled"`
	RotationPeriodInDays *int       `json:"RotationPeriodInDays,omitempty"`
	NextRotationDate     *timestamp `json:"NextRotationDate,omitempty"`
}

func getKeyRotationStatus(c *call, in *keyIDInput) (getKeyRotationStatusOutput, error) {
	var out getKeyRotationStatusOutput
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return out, err
	}
	if err := c.rotatable(k); err != nil {
		return out, err
	}
	out.KeyID = k.id
	// Whether AWS tells the period while rotation is off is not documented: here it does not.
	if out.KeyRotationEnabled = k.rotationPeriod > 0 && !k.pendingDeletion(); out.KeyRotationEnabled {
		out.RotationPeriodInDays = new(k.rotationPeriod)
		out.NextRotationDate = new(timestamp(k.nextRotation))
	}
	return out, nil
}

const (
	maxOnDemandRotations = 25
	// rotationSoon is how long before an automatic rotation a key does not rotate on demand.
	rotationSoon = 20 * time.Minute
)

type keyIDOutput struct {
	KeyID string `json:"KeyId"`
}

// rotateKeyOnDemand rotates at once; AWS takes a while in the background.
func rotateKeyOnDemand(c *call, in *keyIDInput) (keyIDOutput, error) {
	var out keyIDOutput
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return out, err
	}
	if !k.symmetric() || k.store != nil {
		return out, unsupported("%s cannot be rotated on demand.", k.arn)
	}
	if err := k.ready(); err != nil {
		return out, err
	}
	if k.multiRegion && k.primaryRegion != c.region {
		return out, unsupported("%s is a replica key; it rotates with its primary key.", k.arn)
	}
	if k.onDemand >= maxOnDemandRotations {
		return out, wire.Errorf(400, "LimitExceededException", "%s has been rotated on demand %d times, which is the most allowed.", k.arn, k.onDemand)
	}
	if k.rotates() && k.nextRotation.Sub(c.now) <= rotationSoon {
		return out, wire.Errorf(400, "ConflictException", "%s is about to rotate automatically.", k.arn)
	}
	next := k.materialIn(materialPending)
	if k.origin == originKMS {
		next = newMaterial(newSecret(), materialPending)
	} else if next == nil || k.stateOf(next) != materialPending {
		return out, wire.Errorf(400, "KMSInvalidStateException", "No available key material pending rotation for the key: %s.", k.arn)
	}
	k.onDemand++
	c.afterRecord = func() { c.rotate(k, next, c.now, "ON_DEMAND") }
	out.KeyID = k.id
	return out, nil
}

// Values of IncludeKeyMaterial.
const (
	rotationsOnly  = "ROTATIONS_ONLY"
	allKeyMaterial = "ALL_KEY_MATERIAL"
)

type listKeyRotationsInput struct {
	KeyID              string `json:"KeyId"`
	IncludeKeyMaterial string `json:"IncludeKeyMaterial"`
	pageInput
}

type listKeyRotationsOutput struct {
	Rotations []rotationEntry `json:"Rotations"`
	pageOutput
}

type rotationEntry struct {
	KeyID                  string     `json:"KeyId"`
	KeyMaterialID          string     `json:"KeyMaterialId"`
	KeyMaterialDescription *string    `json:"KeyMaterialDescription,omitempty"`
	ImportState            string     `json:"ImportState,omitempty"`
	KeyMaterialState       string     `json:"KeyMaterialState"`
	ExpirationModel        string     `json:"ExpirationModel,omitempty"`
	ValidTo                *timestamp `json:"ValidTo,omitempty"`
	RotationDate           *timestamp `json:"RotationDate,omitempty"`
	RotationType           string     `json:"RotationType,omitempty"`

	order string
}

func listKeyRotations(c *call, in *listKeyRotationsInput) (listKeyRotationsOutput, error) {
	var out listKeyRotationsOutput
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return out, err
	}
	if !k.symmetric() || k.store != nil {
		return out, unsupported("%s has no key rotations.", k.arn)
	}
	if which := in.IncludeKeyMaterial; which != "" && which != rotationsOnly && which != allKeyMaterial {
		return out, invalid("1 validation error detected: Value '%s' at 'includeKeyMaterial' failed to satisfy constraint: Member must satisfy enum value set", which)
	}
	entries := []rotationEntry{}
	for i, m := range k.materials {
		if m.rotated.IsZero() && in.IncludeKeyMaterial != allKeyMaterial {
			continue
		}
		e := rotationEntry{
			KeyID: k.id, KeyMaterialID: m.id, KeyMaterialState: k.stateOf(m), RotationType: m.rotation,
			order: fmt.Sprintf("%06d", i),
		}
		if !m.rotated.IsZero() {
			e.RotationDate = new(timestamp(m.rotated))
		}
		if m.imported {
			e.KeyMaterialDescription, e.ExpirationModel, e.ValidTo = m.description, m.model, m.validTo
			e.ImportState = "IMPORTED"
			if m.aead == nil {
				e.ImportState = "PENDING_IMPORT"
			}
		}
		entries = append(entries, e)
	}
	out.Rotations, out.pageOutput, err = paginate(entries, func(e rotationEntry) string { return e.order }, in.pageInput, 100, 1000)
	return out, err
}

// advance does what has become due: keys are deleted, imported material
// expires, and keys rotate. It runs before each request and by a timer.
func (s *Service) advance(now time.Time) {
	if s.due.IsZero() || now.Before(s.due) {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(s.keys)) {
		k := s.keys[id]
		if !k.deletion.IsZero() && !now.Before(k.deletion) {
			s.deleteKey(k)
			continue
		}
		for _, m := range k.materials {
			at := m.expiry()
			if at.IsZero() || now.Before(at) {
				continue
			}
			m.aead = nil
			s.announce(k, at, "DeleteExpiredKeyMaterial", "KMS Imported Key Material Expiration", serviceEventDetails{KeyMaterialID: m.id})
		}
		for k.rotates() && !now.Before(k.nextRotation) {
			at := k.nextRotation
			k.nextRotation = at.Add(time.Duration(k.rotationPeriod) * day)
			s.rotate(k, newMaterial(newSecret(), materialPending), at, "AUTOMATIC")
		}
	}
	s.reschedule()
}

// expiry is when the material will be deleted, or zero.
func (m *material) expiry() time.Time {
	if m.validTo == nil || m.aead == nil {
		return time.Time{}
	}
	return time.Time(*m.validTo)
}

func (k *key) rotates() bool { return k.rotationPeriod > 0 && k.state() == stateEnabled }

// reschedule finds out when advance has something to do next.
func (s *Service) reschedule() {
	s.due = time.Time{}
	for _, k := range s.keys {
		s.due = earlier(s.due, k.deletion)
		for _, m := range k.materials {
			s.due = earlier(s.due, m.expiry())
		}
		if k.rotates() {
			s.due = earlier(s.due, k.nextRotation)
		}
	}
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if s.due.IsZero() || s.closed {
		return
	}
	s.timer = time.AfterFunc(time.Until(s.due), s.wake)
}

// wake is the timer's call of advance.
func (s *Service) wake() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.callbacks.Add(1)
	defer s.callbacks.Done()
	s.advance(time.Now())
	s.mu.Unlock()
	s.trail.Flush()
}

// earlier returns the earlier of two times, of which a zero one means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
