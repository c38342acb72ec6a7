package kms

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

type scheduleKeyDeletionInput struct {
	KeyID               string `json:"KeyId"`
	PendingWindowInDays *int   `json:"PendingWindowInDays"`
}

type scheduleKeyDeletionOutput struct {
	KeyID               string     `json:"KeyId"`
	DeletionDate        *timestamp `json:"DeletionDate,omitempty"`
	KeyState            string     `json:"KeyState"`
	PendingWindowInDays int        `json:"PendingWindowInDays"`
}

func scheduleKeyDeletion(c *call, in *scheduleKeyDeletionInput) (scheduleKeyDeletionOutput, error) {
	var out scheduleKeyDeletionOutput
	if in.PendingWindowInDays == nil {
		in.PendingWindowInDays = new(30)
	}
	window := *in.PendingWindowInDays
	if window < 7 || window > 30 {
		return out, invalid("1 validation error detected: Value '%d' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value between 7 and 30", window)
	}
	c.condition("kms:ScheduleKeyDeletionPendingWindowInDays", strconv.Itoa(window))
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return out, err
	}
	if err := k.notPendingDeletion(); err != nil {
		return out, err
	}
	k.window = window
	if !k.isPrimaryWithReplicas(c.region) {
		k.deletion = c.now.Add(time.Duration(window) * day)
	}
	c.reschedule()
	out = scheduleKeyDeletionOutput{KeyID: k.arn, KeyState: k.state(), PendingWindowInDays: window}
	if !k.deletion.IsZero() {
		out.DeletionDate = new(timestamp(k.deletion))
	}
	c.response = out
	return out, nil
}

// cancelKeyDeletion leaves the key disabled, as AWS does.
func cancelKeyDeletion(c *call, in *keyIDInput) (keyIDOutput, error) {
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return keyIDOutput{}, err
	}
	if !k.pendingDeletion() {
		return keyIDOutput{}, invalidState(k, "not pending deletion")
	}
	k.window, k.deletion, k.enabled = 0, time.Time{}, false
	c.reschedule()
	return keyIDOutput{KeyID: k.arn}, nil
}

// deleteKey removes a key whose window has passed, with its aliases.
func (s *Service) deleteKey(k *key) {
	delete(s.keys, k.id)
	maps.DeleteFunc(s.aliases, func(_ string, a *alias) bool { return a.key == k })
	s.announce(k, k.deletion, "DeleteKey", "KMS CMK Deletion", serviceEventDetails{})
}

// EndWaiting ends the waiting period of a key, which deletes it. A key whose deletion is not
// scheduled stays.
func (s *Service) EndWaiting(keyID string) {
	s.mu.Lock()
	if k := s.keys[keyID[strings.LastIndexByte(keyID, '/')+1:]]; k != nil && !k.deletion.IsZero() {
		k.deletion = time.Now()
		s.due = k.deletion
		s.advance(s.due)
	}
	s.mu.Unlock()
	s.trail.Flush()
}

// DeleteReplica is the end of the key's replica in another Region, which cannot be
// seen from here. The window of a primary key that waits for the deletion of its
// replicas begins with the last of them. An unknown key or Region changes nothing.
func (s *Service) DeleteReplica(keyID, region string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[keyID[strings.LastIndexByte(keyID, '/')+1:]]
	if k == nil || region == s.region {
		return
	}
	k.regions = slices.DeleteFunc(slices.Clone(k.regions), func(r string) bool { return r == region })
	if k.state() == statePendingReplicaDeletion && !k.isPrimaryWithReplicas(s.region) {
		k.deletion = time.Now().Add(time.Duration(k.window) * day)
		s.reschedule()
	}
}

// ImportIntoReplica is the import of the key's pending material into its replica in
// another Region, which cannot be seen from here. The key rotates once all replicas
// have the material. Without such material it changes nothing.
func (s *Service) ImportIntoReplica(keyID, region string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[keyID[strings.LastIndexByte(keyID, '/')+1:]]; k != nil {
		if m := k.materialIn(materialPending); m != nil {
			m.replicas = append(m.replicas, region)
		}
	}
}

// multiRegionConfig is the API's MultiRegionConfiguration.
type multiRegionConfig struct {
	MultiRegionKeyType string           `json:"MultiRegionKeyType"`
	PrimaryKey         multiRegionKey   `json:"PrimaryKey"`
	ReplicaKeys        []multiRegionKey `json:"ReplicaKeys"`
}

type multiRegionKey struct {
	Arn    string `json:"Arn"`
	Region string `json:"Region"`
}

// arnIn is the ARN of the related key in another Region.
func (k *key) arnIn(region string) string {
	return strings.Replace(k.arn, ":"+k.region()+":", ":"+region+":", 1)
}

func (k *key) isPrimaryWithReplicas(region string) bool {
	return k.multiRegion && k.primaryRegion == region && len(k.regions) > 1
}

func (k *key) multiRegionConfig() *multiRegionConfig {
	config := &multiRegionConfig{MultiRegionKeyType: replicaKey, ReplicaKeys: []multiRegionKey{}}
	if k.primaryRegion == k.region() {
		config.MultiRegionKeyType = primaryKey
	}
	for _, region := range k.regions {
		related := multiRegionKey{Arn: k.arnIn(region), Region: region}
		if region == k.primaryRegion {
			config.PrimaryKey = related
		} else {
			config.ReplicaKeys = append(config.ReplicaKeys, related)
		}
	}
	return config
}

// multiRegionPrimary finds the key of an operation that only a primary key has.
func (c *call) multiRegionPrimary(ref string) (*key, error) {
	k, err := c.use(ref, byKey)
	if err != nil {
		return nil, err
	}
	if !k.multiRegion || k.primaryRegion != c.region {
		return nil, unsupported("%s is not a multi-Region primary key.", k.arn)
	}
	return k, k.ready()
}

type replicateKeyInput struct {
	KeyID                          string  `json:"KeyId"`
	ReplicaRegion                  string  `json:"ReplicaRegion"`
	BypassPolicyLockoutSafetyCheck bool    `json:"BypassPolicyLockoutSafetyCheck"`
	Description                    *string `json:"Description"`
	Policy                         *string `json:"Policy"`
	Tags                           []tag   `json:"Tags"`
}

type replicateKeyOutput struct {
	ReplicaKeyMetadata keyMetadata `json:"ReplicaKeyMetadata"`
	ReplicaPolicy      string      `json:"ReplicaPolicy"`
	ReplicaTags        []tag       `json:"ReplicaTags"`
}

// replicateKey notes the replica's Region on the key. The replica itself is in
// another Region and is not modelled: nothing answers for it.
func replicateKey(c *call, in *replicateKeyInput) (replicateKeyOutput, error) {
	var out replicateKeyOutput
	if in.Description == nil {
		in.Description = new("")
	}
	c.condition("kms:ReplicaRegion", in.ReplicaRegion)
	k, err := c.multiRegionPrimary(in.KeyID)
	if err != nil {
		return out, err
	}
	if slices.Contains(k.regions, in.ReplicaRegion) {
		return out, wire.Errorf(400, "AlreadyExistsException", "%s already has a key in %s", k.arn, in.ReplicaRegion)
	}
	replica := c.newKey(*in.Description, managerCustomer)
	replica.id, replica.arn = k.id, k.arnIn(in.ReplicaRegion)
	replica.origin, replica.spec, replica.usage, replica.materials = k.origin, k.spec, k.usage, k.materials
	policy := c.defaultPolicy()
	if in.Policy != nil {
		policy = *in.Policy
	}
	if err := c.setPolicy(replica, policy, in.BypassPolicyLockoutSafetyCheck); err != nil {
		return out, err
	}
	if err := c.tagNew(replica, in.Tags); err != nil {
		return out, err
	}
	k.regions = slices.Sorted(slices.Values(append(k.regions, in.ReplicaRegion)))
	replica.multiRegion, replica.primaryRegion, replica.regions = true, k.primaryRegion, k.regions
	out = replicateKeyOutput{ReplicaKeyMetadata: c.metadata(replica), ReplicaPolicy: policy, ReplicaTags: replica.tagList()}
	out.ReplicaKeyMetadata.KeyState, out.ReplicaKeyMetadata.Enabled = "Creating", false
	c.response = out
	c.afterRecord = func() { c.synchronize(k) }
	return out, nil
}

// synchronize records that KMS copies what the keys of several Regions share.
// AWS does so from time to time, too.
func (c *call) synchronize(k *key) {
	r := c.ownRecord(k, c.now)
	r.EventName, r.EventType, r.RequestID = "SynchronizeMultiRegionKey", trail.APICall, wire.NewUUID()
	c.trail.Record(r)
}

type updatePrimaryRegionInput struct {
	KeyID         string `json:"KeyId"`
	PrimaryRegion string `json:"PrimaryRegion"`
}

// updatePrimaryRegion makes the key of this Region a replica. The second record is
// one of the other Region; see TakePrimary.
func updatePrimaryRegion(c *call, in *updatePrimaryRegionInput) error {
	c.condition("kms:PrimaryRegion", in.PrimaryRegion)
	k, err := c.multiRegionPrimary(in.KeyID)
	if err != nil {
		return err
	}
	if in.PrimaryRegion == c.region {
		return unsupported("%s is the primary key already.", k.arn)
	}
	if !slices.Contains(k.regions, in.PrimaryRegion) {
		return notFound("%s has no replica key in %s", k.arn, in.PrimaryRegion)
	}
	k.primaryRegion = in.PrimaryRegion
	return nil
}

// TakePrimary is what UpdatePrimaryRegion does in this Region when the caller
// calls it in that of the primary key: the replica here becomes the primary key,
// and a second record says so, without resources. A key that is no replica is left
// alone.
func (s *Service) TakePrimary(c wire.Caller, keyID string) {
	s.mu.Lock()
	k := s.keys[keyID[strings.LastIndexByte(keyID, '/')+1:]]
	if k != nil && k.multiRegion && k.primaryRegion != s.region {
		k.primaryRegion = s.region
		s.trail.Call(trail.Call{
			Service: "kms", Operation: "UpdatePrimaryRegion", Caller: c, RequestID: wire.NewUUID(), Via: "kms.amazonaws.com",
			Parameters: updatePrimaryRegionInput{KeyID: k.arn, PrimaryRegion: s.region}, Response: keyIDOutput{KeyID: k.arn},
		})
	}
	s.mu.Unlock()
	s.trail.Flush()
}
