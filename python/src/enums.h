/* The enumerations of the API. Values are single objects of the enumeration's type: `ReplicaStatus(3) is
 * ReplicaStatus.COMPLETE`. int(x), x.value, x.name, hash and == (also with plain ints) work; repr is
 * "<ReplicaStatus.COMPLETE: 3>". */
#ifndef MPY_ENUMS_H
#define MPY_ENUMS_H

#include "python/src/mpy.h"

/* The member with this value: a new reference. A value that the enumeration does not have is the first member. */
PyObject *mpy_enum_member(mpy_state_t *state, mpy_enum_id_t id, int value);
/* The value of a member; TypeError for any other object. */
bool mpy_enum_value(mpy_state_t *state, mpy_enum_id_t id, PyObject *object, const char *owner, const char *attribute,
                    int *value_out);
/* "PRESERVE": static. */
const char *mpy_enum_name(mpy_enum_id_t id, int value);

#endif
