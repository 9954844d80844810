# The simulation's guest: multiboot, 32-bit, flat, no paging; loaded at 1 MiB.
#
# It runs the script on its command line, one operation a letter (table `operations`), and mixes all it learns
# into `sum`: what arrived, and between which two instructions every interrupt landed. EBP is the load address
# throughout. After the script's last letter it prints `sum` and powers off.

.section .rodata.sim_guest, "a", @progbits
.code32
.balign 4
.global sim_guest_start
sim_guest_start:
image:
    .set BASE, 0x100000
    .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
    .long BASE, BASE, 0, 0, start - image + BASE

start:
    cli
    movl $BASE, %ebp
    movl $0x300000, %esp
    lgdt gdt_pointer-image(%ebp)
    lidt idt_pointer-image(%ebp)
    movl 16(%ebx), %esi                 # command line: "kernel SCRIPT"
    addl $7, %esi
    ljmp $8, $(1f - image + BASE)
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0x18, %eax
    movl %eax, %fs                      # 16 bytes of `port_data`
    call set_up_devices
    call skip_done_boots
    sti
next_operation:
    lodsb
    movzbl %al, %eax
    leal operations-image(%ebp), %edx
2:  cmpb $0, (%edx)
    je finish
    cmpb (%edx), %al
    je 3f
    addl $5, %edx
    jmp 2b
3:  movl 1(%edx), %edx
    addl %ebp, %edx
    call *%edx
    jmp next_operation

finish:
    call op_print
    movl $0x604, %edx
    movl $0x3400, %eax
    outw %ax, %dx
halt_for_ever:
    cli
    hlt
    jmp halt_for_ever

# sum = rol((sum ^ eax) * prime, 5)
mix:
    xorl sum-image(%ebp), %eax
    imull $0x01000193, %eax, %eax
    roll $5, %eax
    movl %eax, sum-image(%ebp)
    ret

# ---- set-up ----

# Port writes of the table, then the local APIC's timer, periodic on vector 0x40.
set_up_devices:
    leal port_writes-image(%ebp), %ebx
1:  movw (%ebx), %dx
    testw %dx, %dx
    jz 2f
    movb 2(%ebx), %al
    outb %al, %dx
    addl $3, %ebx
    jmp 1b
2:  movl $0x1ff, 0xfee000f0             # software enable
    movl $0x3, 0xfee003e0               # divide by 16
    movl $0x20040, 0xfee00320           # periodic
    movl $20000, 0xfee00380
    ret

# CMOS byte 0x50 counts boots; behind as many resets the script goes on.
skip_done_boots:
    movb $0x50, %al
    outb %al, $0x70
    inb $0x71, %al
    movzbl %al, %ecx
    incb %al
    movb %al, %bl
    movb $0x50, %al
    outb %al, $0x70
    movb %bl, %al
    outb %al, $0x71
1:  testl %ecx, %ecx
    jz 3f
2:  lodsb
    testb %al, %al
    jz 4f
    cmpb $'A', %al
    jb 2b
    cmpb $'D', %al
    ja 2b
    decl %ecx
    jmp 1b
4:  decl %esi
3:  ret

# ---- interrupts ----

unexpected:
    movb $'!', %al
    movl $0x3f8, %edx
    outb %al, %dx
    jmp finish

timer_interrupt:
    pushl %eax
    movl 4(%esp), %eax
    call mix
    incl ticks-image(%ebp)
    movl $0, 0xfee000b0
    popl %eax
    iretl

uart_interrupt:
    pushl %eax
    pushl %edx
    pushl %ecx
    movl 12(%esp), %eax
    call mix
1:  movl $0x3fd, %edx
    inb %dx, %al
    testb $1, %al
    jz 2f
    movl $0x3f8, %edx
    inb %dx, %al
    movl received-image(%ebp), %ecx
    movzbl %cl, %ecx
    movb %al, ring-image(%ebp,%ecx)
    incl received-image(%ebp)
    jmp 1b
2:  movb $0x20, %al
    outb %al, $0x20
    popl %ecx
    popl %edx
    popl %eax
    iretl

keyboard_interrupt:
    pushl %eax
    movl 4(%esp), %eax
    call mix
    inb $0x60, %al
    movzbl %al, %eax
    call mix
    movb $0x20, %al
    outb %al, $0x20
    popl %eax
    iretl

nmi:
debug_trap:
software_interrupt:
    pushl %eax
    movl 4(%esp), %eax
    call mix
    popl %eax
    iretl

# UD2 is two bytes long.
invalid_opcode:
    pushl %eax
    movl 4(%esp), %eax
    call mix
    addl $2, 4(%esp)
    popl %eax
    iretl

# Goes on where the operation said.
general_protection:
    movl %ecx, %eax
    call mix
    addl $4, %esp
    movl resume-image(%ebp), %eax
    movl %eax, (%esp)
    iretl

# ---- operations ----

op_compute:
    movl $40, %ecx
1:  movl %ecx, %eax
    call mix
    loop 1b
    ret

op_long_compute:
    movl $400, %ecx
1:  movl %ecx, %eax
    call mix
    loop 1b
    ret

op_wait_tick:
    movl ticks-image(%ebp), %ecx
1:  cli
    cmpl ticks-image(%ebp), %ecx
    jne 2f
    sti
    hlt
    jmp 1b
2:  sti
    ret

# Waits for a byte, mixes and echoes it; first without a periodic timer.
op_input_tickless:
    movl $0x10040, 0xfee00320
    call op_input
    movl $0x20040, 0xfee00320
    movl $20000, 0xfee00380
    ret

op_input:
    cli
    movl taken-image(%ebp), %ecx
    cmpl received-image(%ebp), %ecx
    jne 1f
    sti
    hlt
    jmp op_input
1:  movzbl %cl, %ecx
    movzbl ring-image(%ebp,%ecx), %eax
    incl taken-image(%ebp)
    sti
    movl $0x3f8, %edx
    outb %al, %dx
    call mix
    ret

op_poll_input:
    movl received-image(%ebp), %eax
    call mix
    ret

op_random:
    rdrand %eax
    call mix
    rdseed %eax
    call mix
    ret

op_time:
    rdtsc
    call mix
    movl $0xfee00390, %eax
    movl (%eax), %eax
    call mix
    movb $0x0a, %al                     # RTC: is an update near?
    outb %al, $0x70
    inb $0x71, %al
    call mix
    movb $0, %al
    outb %al, $0x70
    inb $0x71, %al
    call mix
    movl $0x608, %edx                   # ACPI PM timer
    inl %dx, %eax
    call mix
    ret

op_print:
    movl sum-image(%ebp), %ebx
    movl $8, %ecx
1:  roll $4, %ebx
    movl %ebx, %eax
    andl $15, %eax
    movb digits-image(%ebp,%eax), %al
    movl $0x3f8, %edx
    outb %al, %dx
    movl $0x402, %edx
    outb %al, %dx
    loop 1b
    movb $'\n', %al
    movl $0x3f8, %edx
    outb %al, %dx
    ret

op_invalid:
    ud2
    ret

# Writes ports until the segment's end: some bytes go out, then #GP, and no instruction has retired.
op_fault_in_io:
    pushl %esi
    leal 1f-image(%ebp), %eax
    movl %eax, resume-image(%ebp)
    movl $12, %esi
    movl $9, %ecx
    movl $0x402, %edx
    rep outsb %fs:(%esi), %dx
1:  popl %esi
    ret

# Reads a device, then faults.
op_fault_in_read:
    pushl %edi
    leal 1f-image(%ebp), %eax
    movl %eax, resume-image(%ebp)
    pushl %es
    movl $0x18, %eax
    movl %eax, %es
    movl $12, %edi
    movl $9, %ecx
    movl $0x64, %edx
    rep insb %dx, %es:(%edi)
1:  popl %es
    popl %edi
    ret

op_write_memory:
    movl sum-image(%ebp), %eax
    movl %eax, %edx
    andl $0x3fffc, %edx
    movl %eax, 0x180000(%edx)
    xorl 0x180000(%edx), %eax
    call mix
    ret

op_single_step:
    pushfl
    orl $0x100, (%esp)
    popfl
    nop
    movl $3, %ecx
1:  loop 1b
    pushfl
    andl $0xfffffeff, (%esp)
    popfl
    ret

op_software_interrupt:
    int $0x50
    ret

op_modify_code:
    movb sum-image(%ebp), %al
    movb %al, 1f-image+1(%ebp)
    jmp 1f
1:  movb $0, %al
    movzbl %al, %eax
    call mix
    ret

# Says that it panicked, and runs on if it is let.
op_panic:
    movl $0x505, %edx
    inb %dx, %al
    call mix
    movb $1, %al
    outb %al, %dx
    ret

op_power_button:
    movl $0x600, %edx
    inw %dx, %ax
    movzwl %ax, %eax
    call mix
    ret

op_timer_period:
    movl sum-image(%ebp), %eax
    andl $0x3fff, %eax
    addl $8000, %eax
    movl %eax, 0xfee00380
    ret

# Interrupts held off: input and ticks come together at STI.
op_hold_off:
    cli
    call op_compute
    sti
    ret

# Two halts in a row.
op_halt_tight:
    sti
    hlt
    hlt
    ret

op_reset_port:
    movb $6, %al
    movl $0xcf9, %edx
    outb %al, %dx
    jmp halt_for_ever

op_reset_keyboard:
    movb $0xfe, %al
    outb %al, $0x64
    jmp halt_for_ever

op_triple_fault:
    movl $0, idt_pointer-image+2(%ebp)
    movw $0, idt_pointer-image(%ebp)
    lidt idt_pointer-image(%ebp)
    ud2

# A reset asked for by an instruction that then faults.
op_fault_in_reset:
    leal halt_for_ever-image(%ebp), %eax
    movl %eax, resume-image(%ebp)
    movl $15, %esi
    movl $3, %ecx
    movl $0xcf9, %edx
    rep outsb %fs:(%esi), %dx
    jmp halt_for_ever

# Debug exit, a halt for ever, and exceptions for ever.
op_debug_exit:
    movb $7, %al
    outb %al, $0xf4
    jmp halt_for_ever

op_stuck:
    cli
    movw $(stuck_handler - image), idt-image+6*8(%ebp)
stuck_handler:
    ud2

.macro port_write port, value
    .word \port
    .byte \value
.endm
port_writes:
    # 8259 pair on vectors 0x20 and 0x28; keyboard, cascade and UART let through.
    port_write 0x20, 0x11
    port_write 0xa0, 0x11
    port_write 0x21, 0x20
    port_write 0xa1, 0x28
    port_write 0x21, 4
    port_write 0xa1, 2
    port_write 0x21, 1
    port_write 0xa1, 1
    port_write 0x21, 0xe9
    port_write 0xa1, 0xff
    # i8042: keyboard on, its interrupt on, translation.
    port_write 0x64, 0x60
    port_write 0x60, 0x45
    # UART: FIFO on, interrupt on received data.
    port_write 0x3fb, 3
    port_write 0x3fa, 7
    port_write 0x3fc, 0x0b
    port_write 0x3f9, 1
    .word 0

.macro operation letter, routine
    .byte \letter
    .long \routine - image
.endm
operations:
    operation 'c', op_compute
    operation 'l', op_long_compute
    operation 'h', op_wait_tick
    operation 'i', op_input
    operation 'j', op_input_tickless
    operation 'p', op_poll_input
    operation 'r', op_random
    operation 't', op_time
    operation 'o', op_print
    operation 'u', op_invalid
    operation 'g', op_fault_in_io
    operation 'f', op_fault_in_read
    operation 'w', op_write_memory
    operation 's', op_single_step
    operation 'n', op_software_interrupt
    operation 'm', op_modify_code
    operation 'b', op_power_button
    operation 'q', op_panic
    operation 'e', op_timer_period
    operation 'd', op_hold_off
    operation 'k', op_halt_tight
    operation 'A', op_reset_port
    operation 'B', op_reset_keyboard
    operation 'C', op_triple_fault
    operation 'D', op_fault_in_reset
    operation 'E', op_debug_exit
    operation 'F', halt_for_ever
    operation 'G', op_stuck
    .byte 0

digits:
    .ascii "0123456789abcdef"
.balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    .word 15, port_data - image         # BASE has no low word
    .byte BASE >> 16, 0x93, 0x40, 0
gdt_pointer:
    .word 31
    .long gdt - image + BASE
idt_pointer:
    .word 0x51 * 8 - 1
    .long idt - image + BASE
port_data:
    .ascii "port data: byte"
    .byte 6
sum:
    .long 0x811c9dc5
ticks:
    .long 0
received:
    .long 0
taken:
    .long 0
resume:
    .long 0
ring:
    .skip 256
.balign 8
# 32-bit interrupt gates (SDM 3A 6.11), by vector.
.macro gates count, handler
    .rept \count
    .word \handler - image, 8, 0x8e00, BASE >> 16
    .endr
.endm
idt:
    gates 1, unexpected
    gates 1, debug_trap
    gates 1, nmi
    gates 3, unexpected
    gates 1, invalid_opcode
    gates 6, unexpected
    gates 1, general_protection
    gates 0x13, unexpected
    gates 1, keyboard_interrupt
    gates 2, unexpected
    gates 1, uart_interrupt
    gates 0x1b, unexpected
    gates 1, timer_interrupt
    gates 0xf, unexpected
    gates 1, software_interrupt
.global sim_guest_end
sim_guest_end:
