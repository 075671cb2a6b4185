# The guest of `hutch bench boot`: a whole /init in a few hundred bytes, so that what is measured is the VMM and the kernel.
#
# 1. One byte 'I' to I/O port 0xE9: the mark "init". Any init may do the same: ioperm(0xE9, 1, 1), then OUT.
# 2. "hutch-bench-init NANOSECONDS\n", the guest's own CLOCK_MONOTONIC, to /dev/kmsg as an alert, so that the kernel prints
#    it on whatever console there is, by polling; a tty would need an interrupt. Without /dev/kmsg: standard output.
# 3. With the word "benchhold" on the kernel command line (which the kernel passes as an argument) it waits for ever;
#    without it the guest is powered off.
#
# Assembled and compared with the bytes in cli/src/bench/initrd.rs by that file's test.
        .intel_syntax noprefix
        .text
        .globl _start
_start:
        mov     rbp, rsp                # [rbp] argc, [rbp+8..] argv
        mov     eax, 173                # ioperm
        mov     edi, 0xe9
        mov     esi, 1
        mov     edx, 1
        syscall
        test    eax, eax
        jnz     1f
        mov     al, 'I'
        out     0xe9, al
1:      mov     r12d, 1
        mov     eax, 2                  # open
        lea     rdi, [rip + kmsg]
        mov     esi, 1                  # O_WRONLY
        xor     edx, edx
        syscall
        test    eax, eax
        js      7f
        mov     r12d, eax
7:      sub     rsp, 128
        mov     eax, 228                # clock_gettime
        mov     edi, 1                  # CLOCK_MONOTONIC
        mov     rsi, rsp
        syscall
        mov     rax, [rsp]
        imul    rax, rax, 1000000000
        add     rax, [rsp + 8]
        lea     rsi, [rsp + 120]        # decimal digits, from the end
        mov     byte ptr [rsi], 10
        mov     ecx, 10
2:      xor     edx, edx
        div     rcx
        add     dl, '0'
        dec     rsi
        mov     [rsi], dl
        test    rax, rax
        jnz     2b
        lea     rbx, [rip + prefix + 20]
        mov     ecx, 20
3:      dec     rsi
        dec     rbx
        mov     al, [rbx]
        mov     [rsi], al
        dec     ecx
        jnz     3b
        lea     rdx, [rsp + 121]
        sub     rdx, rsi
        mov     edi, r12d
        mov     eax, 1                  # write
        syscall
        lea     rbx, [rbp + 8]
4:      mov     rax, [rbx]
        test    rax, rax
        jz      6f
        add     rbx, 8
        mov     rcx, 0x6c6f6868636e6562 # "benchhol"
        cmp     [rax], rcx
        jne     4b
5:      mov     eax, 34                 # pause
        syscall
        jmp     5b
6:      mov     eax, 169                # reboot
        mov     edi, 0xfee1dead
        mov     esi, 672274793
        mov     edx, 0x4321fedc         # LINUX_REBOOT_CMD_POWER_OFF
        syscall
        mov     eax, 169
        mov     edi, 0xfee1dead
        mov     esi, 672274793
        mov     edx, 0x01234567         # LINUX_REBOOT_CMD_RESTART, where there is no power-off
        syscall
        jmp     5b
kmsg:   .asciz  "/dev/kmsg"
prefix: .ascii  "<1>hutch-bench-init "
